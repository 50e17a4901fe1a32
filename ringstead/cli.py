"""The command line: `ringstead COMMAND`.

Every failure that can be explained ends in one line on standard error and exit code 1 (it did not work) or 2 (the command
or a setting makes no sense). What a command needs is imported when it runs: `ringstead serve storage` starts on a
machine without a terminal or a proxy in its memory.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from ringstead.commands.options import config_option, data_option, json_option
from ringstead.errors import RingsteadError
from ringstead.settings.config import CONFIG_CLASSES

_ELSEWHERE: Mapping[str, tuple[str, str]] = {
    "az": ("ringstead.commands.cloud.pools", "Availability zones."),
    "flavor": ("ringstead.commands.cloud.volumes", "Sizes that servers come in."),
    "host": ("ringstead.commands.cloud.pools", "Hosts of the pools."),
    "image": ("ringstead.commands.cloud.volumes", "What servers start from."),
    "pool": ("ringstead.commands.cloud.pools", "Xen pools."),
    "quota": ("ringstead.commands.cloud.pools", "What a project may hold."),
    "reconcile": ("ringstead.commands.cloud.pools", "Hold what is recorded against what the pools run."),
    "server": ("ringstead.commands.cloud.servers", "Virtual machines."),
    "task": ("ringstead.commands.cloud.pools", "Work on servers and volumes."),
    "volume": ("ringstead.commands.cloud.volumes", "Disks that outlive servers."),
    "zone": ("ringstead.commands.cloud.zones", "What a zone holds, and what would be lost with it."),
    "daemon": ("ringstead.commands.cluster.daemons", "Show, pause, resume and slow a node's daemons."),
    "device": ("ringstead.commands.cluster.devices", "Show devices; take them out of service and back."),
    "user": ("ringstead.commands.cluster.users", "Add, list, show and remove users."),
    "ring": ("ringstead.commands.ring.group", "Make and change rings."),
    "rebalance": ("ringstead.commands.cluster.rebalance", "Move data to where a changed ring wants it."),
    "bench": ("ringstead.commands.bench", "Measure, beside Swift and other peers that are installed."),
    "fsck": ("ringstead.commands.cluster.fsck", "Check a device that no process serves."),
    "xensim": ("ringstead.commands.xensim", "Simulate XenAPI pools."),
}
"""Commands in modules of their own, with the help that `ringstead --help` shows without importing them."""
_LOGGING = frozenset({"device", "rebalance", "serve", "status", "up", "user", "xensim"})
"""Commands whose code logs."""


class LazyGroup(click.Group):
    """A group whose larger commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            command: click.Command = getattr(importlib.import_module(_ELSEWHERE[cmd_name][0]), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: list[tuple[str, str]] = []
        for name in self.list_commands(ctx):
            if name in _ELSEWHERE:
                rows.append((name, _ELSEWHERE[name][1]))
            elif (command := self.get_command(ctx, name)) is not None:
                rows.append((name, command.get_short_help_str()))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Ringstead: one ring for a small private cloud."""
    if ctx.invoked_subcommand in _LOGGING:
        from ringstead.processes.logs import load_structlog

        load_structlog()


@cli.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    click.echo(f"ringstead {version_of('ringstead')}")


@cli.command()
@click.argument("service", type=click.Choice(sorted(CONFIG_CLASSES)))
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, metavar="FILE")
def serve(service: str, config_path: Path) -> None:
    """Run one service of one node."""
    from ringstead.services.run import run_service
    from ringstead.settings.config import config_class_of
    from ringstead.settings.config_file import load

    config = load(config_class_of(service), config_path)
    sys.exit(run_service(config))


@cli.command()
@data_option
@click.option("--host", help="Address to serve at.  [127.0.0.1 at first]")
@click.option("--port", type=int, help="Port to serve at.  [8080 at first]")
@click.option("--zones", type=int, help="Failure domains.  [3; may grow]")
@click.option("--devices-per-zone", type=int, help="Devices in each.  [2; may grow]")
@click.option("--workers", type=int, help="HTTP processes that share the port.  [2 at first]")
@click.option("--xen/--no-xen", default=None, help="With simulated Xen pools and a controller.  [with, at first]")
@click.option("--xen-port", type=int, help="Port of the simulated hosts.  [a free one]")
def up(data: Path, **options: Any) -> None:
    """Run a cluster on this machine; made on first use, carried on with afterwards."""
    from ringstead.one_machine.layout import DataDirectory
    from ringstead.one_machine.next_steps import print_next_steps
    from ringstead.one_machine.up import run_up
    from ringstead.services.run import LOADS

    asked = {name: value for name, value in options.items() if value is not None}
    run_up(
        DataDirectory(data.absolute()),
        asked,
        say=lambda line: click.echo(f"ringstead: {line}", err=True),
        announce=print_next_steps,
        loads=LOADS,
    )


@cli.command()
@data_option
@config_option
@json_option
def status(data: Path, config: Path | None, as_json: bool) -> None:
    """Show devices, processes and backlogs of a running cluster."""
    from ringstead.commands.cluster.status import show_status

    show_status(data, config, as_json=as_json)


@cli.group(name="config")
def config_group() -> None:
    """Show and check settings."""


@config_group.command(name="show")
@click.argument("service", type=click.Choice(sorted(CONFIG_CLASSES)))
@click.option("--config", "config_path", type=click.Path(path_type=Path), metavar="FILE", help="With what FILE sets.")
def config_show(service: str, config_path: Path | None) -> None:
    """Print all settings of a service, explained, as a file to begin with."""
    from ringstead.settings.config import config_class_of
    from ringstead.settings.config_file import load, render

    config_class = config_class_of(service)
    click.echo(render(load(config_class, config_path) if config_path else config_class()), nl=False)


@config_group.command(name="check")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
def config_check(files: tuple[Path, ...]) -> None:
    """Check settings files (each with a line `service = "…"`)."""
    from ringstead.settings.config_file import load_any

    for path in files:
        config = load_any(path)
        click.echo(f"{path}: good settings for {config.service}")


def main() -> NoReturn:
    """The entry point of `ringstead`."""
    # numpy would start a thread for each processor, for products of matrices, of which there are none here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        _fail("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except RingsteadError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def ring_main() -> NoReturn:
    """The entry point of `ringstead-ring`: `ringstead ring` under a name of its own."""
    sys.argv = ["ringstead", "ring", *sys.argv[1:]]
    main()


def _fail(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    print(f"ringstead: {line}", file=sys.stderr)
    sys.exit(code)
