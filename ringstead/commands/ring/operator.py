"""What all commands of `ringstead ring` share: which files they mean, who asks, how they fail and what they print.

Two orders of words are understood. Ours: `ringstead ring [--file FILE] COMMAND …`. Swift's: `ringstead-ring FILE COMMAND
…`, known by a first word that is no command; without a command both show the ring.

Exit codes are swift-ring-builder's: 0 done, 1 nothing to do or a warning, 2 an error, which is one line and changed
nothing.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import xxhash

from ring.builder_files import BuilderFileError, BuilderFiles, State
from ring.check import CheckError
from ring.device_text import DeviceTextError
from ring.memory import Memory, MemoryFileError
from ring.part_power import PartPowerError
from ring.quota import QuotaError
from ring.rebalance import RebalanceError
from ring.ring import SEED_MAX, RingError
from ring.ring_file import RingFileError
from ring.swift_ring_file import SwiftFileError
from ring.topology import TopologyError
from ring.topology_file import Design, TopologyFileError
from ringstead.commands.options import DATA_VARIABLE
from ringstead.errors import ConfigError, RingsteadError
from ringstead.one_machine.builder import RING_VARIABLE, TOPOLOGY_NAME, builder_files, ensure_builder
from ringstead.one_machine.layout import DataDirectory

EXIT_DONE, EXIT_WARNING, EXIT_ERROR = 0, 1, 2
BYTES_PER_REPLICA = 100
"""Of memory while a ring is computed, as measured at 2^20 partitions."""

F = TypeVar("F", bound=Callable[..., Any])

EXPLAINED = (
    BuilderFileError,
    DeviceTextError,
    MemoryFileError,
    PartPowerError,
    QuotaError,
    RebalanceError,
    RingError,
    RingFileError,
    SwiftFileError,
    TopologyError,
    TopologyFileError,
)
"""Failures whose message is for the operator."""


class RingCommandError(RingsteadError):
    """A command of `ringstead ring` that could not be carried out; nothing was changed."""

    exit_code = EXIT_ERROR


class RingCommand(click.Command):
    """A command whose errors are one line and exit code 2, and that takes `-5` for a number rather than an option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {})
        kwargs["context_settings"] = {
            "help_option_names": ["-h", "--help"],
            "ignore_unknown_options": True,
            **kwargs["context_settings"],
        }
        super().__init__(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for word in args:
            # What isn't a number would be taken for short options: -i nf.
            if word.lower() in ("-inf", "-infinity", "-nan"):
                raise click.UsageError(f"{word} is no number that one can compute with")
            if word.startswith("--") and len(word) > 2 and not self._has_option(ctx, word.partition("=")[0]):
                raise click.UsageError(f"there is no option {word!r}; see --help")
        return super().parse_args(ctx, args)

    def _has_option(self, ctx: click.Context, word: str) -> bool:
        known = [option for param in self.get_params(ctx) for option in param.opts]
        return any(option.startswith(word) for option in known)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            raise RingCommandError(f"{error.filename or 'a file'}: {error.strerror or error}") from error
        except EXPLAINED as error:
            raise RingCommandError(str(error)) from error
        except CheckError as error:
            raise RingCommandError(
                f"a check of the result failed, so nothing was written ({error}): a defect"
            ) from error
        except MemoryError as error:
            raise RingCommandError("too little memory for so many partitions: choose a smaller part power") from error


class RingGroup(click.Group):
    """The group `ring`; a first word that is no command is the file."""

    command_class = RingCommand

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Swift's commands have underscores, so all have; dashes are understood."""
        cmd.name = (name or cmd.name or "").replace("-", "_")
        super().add_command(cmd, cmd.name)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name.replace("-", "_"))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["ringstead.ring.words"] = list(args)
        place = _first_word(args)
        if place is not None and not self._knows(args[place]):
            word, rest = args[place], [*args[:place], *args[place + 1 :]]
            following = _first_word(rest[place:])
            if following is None or self._knows(rest[place + following]):
                args = ["--file", word, *rest]
            known_file = following is not None and self._knows(rest[place + following])
            if not any(mark in word for mark in "./") and not (known_file or Path(word).exists()):
                raise click.UsageError(f"there is no command {word!r}; `ringstead ring --help` lists them")
        return super().parse_args(ctx, args)

    def _knows(self, word: str) -> bool:
        return word.replace("-", "_") in self.commands


def _first_word(args: Sequence[str]) -> int | None:
    """Where the first argument is that is no option (nor the value of one)."""
    place = 0
    while place < len(args):
        if args[place] in ("-f", "--file"):
            place += 2
        elif args[place].startswith("-"):
            place += 1
        else:
            return place
    return None


@dataclass(frozen=True, slots=True)
class Operator:
    """Who gives a command, about which files, and how they want the answer."""

    files: BuilderFiles
    words: str
    as_json: bool
    file_named: bool

    @property
    def now_min(self) -> int:
        """Minutes since 1970-01-01 UTC."""
        return int(time.time()) // 60

    @contextmanager
    def changing(self) -> Iterator[State]:
        """What the files say, kept from others until the block ends."""
        with self.files.lock(self.words):
            yield self.files.read()

    def write(self, state: State, design: Design, memory: Memory | None, *, write_ring: bool = False) -> bool:
        """Write what was changed in a `changing` block; False if nothing was."""
        return self.files.change(state, design, memory, self.words, write_ring=write_ring)

    def answer(self, data: dict[str, Any], lines: Sequence[str] = ()) -> None:
        """Print an answer: the data for programs, or the lines for people."""
        if self.as_json:
            click.echo(json.dumps(data))
        else:
            for line in lines:
                click.echo(line)


def make_operator(ctx: click.Context, file: str | None, as_json: bool) -> Operator:
    """The operator of this call."""
    named = file or os.environ.get(RING_VARIABLE)
    path = Path(named or TOPOLOGY_NAME)
    if named is None and not path.exists():
        path = _of_one_machine() or path
    files = builder_files(path.absolute())
    words = shlex.join(ctx.meta.get("ringstead.ring.words", []))[:2000]
    return Operator(files, words, as_json, file_named=file is not None or RING_VARIABLE in os.environ)


def _of_one_machine() -> Path | None:
    """The topology file of the one-machine cluster that is here, if there is one: ./data, or $RINGSTEAD_DATA."""
    directory = DataDirectory(Path(os.environ.get(DATA_VARIABLE) or "data").absolute())
    if not directory.exists:
        return None
    try:
        return ensure_builder(directory)
    except (ConfigError, OSError) as error:
        raise RingCommandError(str(error)) from error


def pass_operator(function: F) -> F:
    """Hand the operator to a command, and give it `--json`."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.pass_context
    def wrapped(ctx: click.Context, /, *args: Any, as_json: bool, **kwargs: Any) -> Any:
        operator: Operator = ctx.obj
        if as_json and not operator.as_json:
            operator = Operator(operator.files, operator.words, True, operator.file_named)
        return ctx.invoke(function, operator, *args, **kwargs)

    wrapped.__name__ = function.__name__
    wrapped.__doc__ = function.__doc__
    for name in ("__click_params__",):
        if hasattr(function, name):
            setattr(wrapped, name, [*getattr(function, name), *getattr(wrapped, name, [])])
    return wrapped  # type: ignore[return-value]  # click's decorators change the signature that they are given


class SeedType(click.ParamType[int]):
    """A seed: a number, or any word, as Swift's tool takes it."""

    name = "seed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number = int(value) if str(value).isdecimal() else xxhash.xxh3_64_intdigest(str(value).encode())
        if number > SEED_MAX:
            self.fail(f"{value} is above 2**64-1", param, ctx)
        return number


def check_memory(design: Design) -> None:
    """Refuse a ring that would not fit into memory, before the kernel ends the process for it."""
    needed = design.settings.replica_total * BYTES_PER_REPLICA
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # Files in the page cache are given up when memory is asked for, so what is free is a part of what there is.
    limit = max(free, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    if needed > limit:
        raise RingCommandError(
            f"2^{design.settings.part_power} partitions with {design.settings.replicas:g} replicas take some "
            f"{needed / 1e9:,.0f} GB of memory, and there are {limit / 1e9:,.0f}: choose a smaller part power"
        )


def finish(code: int) -> None:
    """End the command with this exit code."""
    click.get_current_context().exit(code)
