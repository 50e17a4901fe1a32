"""`ringstead rebalance`: a ring change from its plan to its end.

    ringstead rebalance                 how far it is
    ringstead rebalance plan            what the next start would copy, from where to where, and how long it takes
    ringstead rebalance start           begin
    ringstead rebalance watch           a progress bar until it is done
    ringstead rebalance throttle 50MB/s --device 20MB/s
    ringstead rebalance pause | resume
    ringstead rebalance grow --zones 4  more zones or devices for a cluster on one machine

What is to change is said with `ringstead ring`: add, drain, set_weight, remove. Commands speak to this machine's files;
orders and rings reach the other nodes by themselves.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ringstead.commands.figures import age_text, parse_rate, size_text
from ringstead.commands.options import RateCommand, config_option, data_option, json_option
from ringstead.errors import RingsteadError, UsageError

if TYPE_CHECKING:
    from ring.move_preview import MovePreview
    from ring.moves import MoveOrders
    from ringstead.commands.cluster.device_status import DeviceStatus
    from ringstead.commands.cluster.ring_home import RingHome
    from ringstead.rings.change import Progress
    from ringstead.settings.config import ProxyConfig

F = TypeVar("F", bound=Callable[..., Any])
WATCH_S: Final = 0.5
"""How often `watch` looks."""
DEFAULT_RATES: Final = (256.0 * 1024**2, 128.0 * 1024**2)
"""What replicators do unless told otherwise: all together, and to one device."""
DONE_EXIT, NOTHING_EXIT = 0, 3


def file_option(function: F) -> F:
    """`--file FILE`: the topology file."""
    return click.option(
        "-f", "--file", type=click.Path(path_type=Path, dir_okay=False), help="Topology file, with --config."
    )(function)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@data_option
@config_option
@file_option
@json_option
@click.pass_context
def rebalance(ctx: click.Context, data: Path, config: Path | None, file: Path | None, as_json: bool) -> None:
    """Move data to where a changed ring wants it: plan, start, watch, throttle, pause, resume.

    Without a command: how far the present move is.
    """
    ctx.obj = (data, config, file, as_json)
    if ctx.invoked_subcommand is None:
        _show(_home(data, config, file), as_json=as_json)


def _home(data: Path, config: Path | None, file: Path | None) -> RingHome:
    from ringstead.commands.cluster.ring_home import open_home

    home: RingHome = _explained(lambda: open_home(data, config, file))
    return home


def command(name: str, cls: type[click.Command] = click.Command) -> Callable[[F], click.Command]:
    """A subcommand that takes the options that say which cluster it is about, before or behind its name."""

    def decorate(function: F) -> click.Command:
        @rebalance.command(name=name, cls=cls, help=function.__doc__)
        @data_option
        @config_option
        @file_option
        @json_option
        @click.pass_context
        def wrapped(
            ctx: click.Context, /, data: Path, config: Path | None, file: Path | None, as_json: bool, **options: Any
        ) -> None:
            before: tuple[Path, Path | None, Path | None, bool] = ctx.obj
            named = ctx.get_parameter_source("data") is click.core.ParameterSource.COMMANDLINE
            home = _home(data if named else before[0], config or before[1], file or before[2])
            _explained(lambda: function(home, as_json=as_json or before[3], **options))

        for param in getattr(function, "__click_params__", []):
            wrapped.params.insert(0, param)
        return wrapped

    return decorate


def _explained(work: Callable[[], Any]) -> Any:
    """Failures of the files that have an explanation come out as RingsteadError."""
    from ringstead.commands.ring.operator import EXPLAINED

    try:
        return work()
    except EXPLAINED as error:
        raise RingsteadError(str(error)) from error
    except OSError as error:
        raise RingsteadError(f"{error.filename or 'a file'}: {error.strerror or error}") from error


# ------------------------------------------------------------------------------------------------------- plan and start


def rate_options(function: F) -> F:
    """`--rate` and `--device-rate`."""
    function = click.option("--device-rate", metavar="RATE", help="To one device.")(function)
    return click.option("--rate", metavar="RATE", help="By the whole cluster together, as 50MB/s.")(function)


@command("plan")
@rate_options
def plan(home: RingHome, as_json: bool, rate: str | None, device_rate: str | None) -> None:
    """Show what the next start would copy, with the data that there is; nothing changes."""
    planned, waiting = _planned(home)
    _say_plan(planned, waiting, _rates(home, rate, device_rate), as_json)


@command("start")
@rate_options
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
def start(home: RingHome, as_json: bool, rate: str | None, device_rate: str | None, yes: bool) -> None:
    """Begin to move: the next ring goes into force, here and then everywhere."""
    from ringstead.rings.change import MoveUnderWay

    if home.generations().moving:
        raise MoveUnderWay("data still moves to the present ring; `ringstead rebalance` shows how far it is")
    planned, waiting = _planned(home)
    if not as_json:
        _say_plan(planned, waiting, _rates(home, rate, device_rate), as_json=False)
        if sys.stdin.isatty() and not yes and not click.confirm("Begin?", default=True):
            raise RingsteadError("nothing was changed")
    epoch = _begin(home, rate, device_rate)
    if as_json:
        click.echo(json.dumps({"epoch": epoch, **_plan_json(planned, waiting, _rates(home, rate, device_rate))}))
    else:
        click.echo(f"The ring with epoch {epoch} is in force; `ringstead rebalance watch` shows how far it is.")


def _planned(home: RingHome) -> tuple[MovePreview, int]:
    """What the next step copies, and how many replicas wait for a later one."""
    from ringstead.rings.change import next_step

    ring = home.generations().newest
    step = next_step(home.files, ring, int(time.time()) // 60)
    return step.preview(ring, held_bytes(home.settings)), step.waiting


def _begin(home: RingHome, rate: str | None, device_rate: str | None) -> int:
    """Start the next step; -> its epoch."""
    from ringstead.rings.change import begin, next_step

    generations = home.generations()
    step = next_step(home.files, generations.newest, int(time.time()) // 60)
    planned = step.preview(generations.newest, held_bytes(home.settings))
    given = {"bytes_per_s": rate, "device_bytes_per_s": device_rate}
    rates = {name: parse_rate(text) for name, text in given.items() if text is not None}
    begin(home.files, generations, step, planned, "rebalance start", rates, lambda: _give_services(home))
    return step.ring.epoch


def _give_services(home: RingHome) -> None:
    """On one machine: have the services of new devices up before anybody writes to them."""
    from ringstead.errors import ClusterDown
    from ringstead.one_machine.growth import follow_rings
    from ringstead.processes.control import ask, control_path

    if home.directory is None:
        return
    came, _ = follow_rings(home.directory)
    if came:
        try:
            ask(control_path(home.directory.run_dir, "supervisor"), "refresh", timeout_s=60.0, within_s=50.0)
        except ClusterDown:
            return  # nothing runs: `up` starts them with all others


def held_bytes(settings: ProxyConfig) -> dict[int, float]:
    """What each device holds now, by id; nothing of those that do not answer."""
    return {device.id: float(device.used_bytes) for device in _devices(settings)}


def _devices(settings: ProxyConfig) -> list[DeviceStatus]:
    from ringstead.commands.access import open_cluster, run_command
    from ringstead.commands.cluster.device_status import ask_devices

    async def look() -> list[DeviceStatus]:
        async with open_cluster(settings) as cluster:
            return await ask_devices(cluster)

    return run_command(look)


def _rates(home: RingHome, rate: str | None, device_rate: str | None) -> tuple[float, float]:
    """The rates that a move would go at: those given, those ordered, or the replicators' own."""
    orders = home.generations().state.orders
    whole = parse_rate(rate) if rate else orders.bytes_per_s or DEFAULT_RATES[0]
    device = parse_rate(device_rate) if device_rate else orders.device_bytes_per_s or DEFAULT_RATES[1]
    return whole, device


def _plan_json(planned: MovePreview, waiting: int, rates: tuple[float, float]) -> dict[str, Any]:
    from ring.topology import tier_name

    return {
        "partitions": planned.partitions,
        "replicas": planned.replicas,
        "bytes": planned.size_bytes,
        "duration_s": planned.duration_s(*rates),
        "bytes_per_s": rates[0],
        "device_bytes_per_s": rates[1],
        "replicas_waiting": waiting,
        "zones": [
            {"from": tier_name(one), "to": tier_name(other), "replicas": count, "bytes": size}
            for (one, other), (count, size) in planned.zones.items()
        ],
        "into": planned.into,
        "out_of": planned.out_of,
    }


def _say_plan(planned: MovePreview, waiting: int, rates: tuple[float, float], as_json: bool) -> None:
    from ring.topology import tier_name
    from ringstead.commands.output import count_text, print_table

    if as_json:
        click.echo(json.dumps(_plan_json(planned, waiting, rates)))
        return
    if planned.replicas:
        click.echo(
            f"{count_text(planned.replicas, 'replica')} of {count_text(planned.partitions, 'partition')} move: "
            f"{size_text(planned.size_bytes)}, about {age_text(planned.duration_s(*rates))} at {size_text(rates[0])}/s "
            f"in all and {size_text(rates[1])}/s to a device"
        )
    else:
        click.echo("No data moves: every replica lies where the next ring wants it already; only the ring changes")
    rows = [
        [tier_name(one), tier_name(other), f"{count:,}", size_text(size)]
        for (one, other), (count, size) in sorted(planned.zones.items(), key=lambda item: -item[1][1])
    ]
    if rows:
        print_table(("from zone", "to zone", "replicas", "bytes"), rows, left=("from zone", "to zone"))
    if waiting:
        click.echo(f"{count_text(waiting, 'replica')} wait for the step after this one: start again when it is done")


# ------------------------------------------------------------------------------------------------------------- orders


def _order(home: RingHome, change: Callable[[MoveOrders], MoveOrders], as_json: bool) -> None:
    from ring.moves import give_orders
    from ringstead.rings.change import now_us

    orders = give_orders(home.settings.ring_file, now_us(), change)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "paused": orders.paused,
                    "bytes_per_s": orders.bytes_per_s or None,
                    "device_bytes_per_s": orders.device_bytes_per_s or None,
                }
            )
        )
        return
    limits = _limits_text(orders.bytes_per_s, orders.device_bytes_per_s)
    click.echo(f"Moves are {'held' if orders.paused else 'not held'}; {limits}. All nodes follow within seconds.")


def _limits_text(whole: float, device: float) -> str:
    if not whole and not device:
        return "as fast as replicators are set to"
    parts = [f"{size_text(whole)}/s in all"] if whole else []
    return " and ".join([*parts, *([f"{size_text(device)}/s to a device"] if device else [])])


@command("pause")
def pause(home: RingHome, as_json: bool) -> None:
    """Hold what moves (partitions in the middle are finished); repairs go on."""
    _order(home, lambda orders: replace(orders, paused=True), as_json)


@command("resume")
def resume(home: RingHome, as_json: bool) -> None:
    """Let it go on."""
    _order(home, lambda orders: replace(orders, paused=False), as_json)


@command("throttle", RateCommand)
@click.argument("rate", required=False)
@click.option("--device", "device_rate", metavar="RATE", help="To one device; `none` for no limit.")
def throttle(home: RingHome, as_json: bool, rate: str | None, device_rate: str | None) -> None:
    """Limit moves: `throttle 50MB/s`, `throttle --device 20MB/s`, `throttle none`. Takes effect at once, everywhere."""
    if rate is None and device_rate is None:
        raise UsageError("say how much: `throttle 50MB/s`, `--device 20MB/s`, or `none`")

    def change(orders: MoveOrders) -> MoveOrders:
        return replace(
            orders,
            bytes_per_s=_limit(rate, orders.bytes_per_s),
            device_bytes_per_s=_limit(device_rate, orders.device_bytes_per_s),
        )

    _order(home, change, as_json)


def _limit(text: str | None, before: float) -> float:
    """A limit as it was typed; what it was, where nothing was. 0: no limit."""
    return before if text is None else 0.0 if text == "none" else parse_rate(text)


# ----------------------------------------------------------------------------------------------------------- progress


def _show(home: RingHome, *, as_json: bool) -> None:
    from ringstead.rings.change import progress

    found = progress(home.settings, home.generations())
    click.echo(json.dumps(found.as_json()) if as_json else progress_text(found))
    if not found.answering:
        _require_cluster(home)


def _require_cluster(home: RingHome) -> None:
    """Raise ClusterDown where not even a device answers: what the files say is then not what happens."""
    from ringstead.commands.cluster.device_status import require_one_up

    require_one_up(_devices(home.settings))


def progress_text(found: Progress) -> str:
    """A line about a move."""
    if found.problem:
        return f"the rings here are not followed: {found.problem}"
    if not found.under_way and not found.answering:
        return f"the ring with epoch {found.epochs[0]} is the only one in force; the replicator here does not answer"
    if not found.under_way:
        return f"nothing moves; the ring has epoch {found.epochs[0]}"
    line = f"epoch {', '.join(map(str, reversed(found.epochs[1:])))} -> {found.epochs[0]}: "
    if not found.answering:
        return line + "the replicator does not answer"
    if found.nothing_to_copy:
        return line + "no data to copy; until every node follows"
    if not found.moving:
        return line + ("paused before it began" if found.paused else "about to begin")
    if found.share == 1.0:
        return line + "all has moved; until every node follows"
    line += f"{'paused at ' if found.paused else ''}{100 * found.share:.1f} %"
    if found.planned_bytes:
        line += f", {size_text(found.left_bytes)} of {size_text(found.planned_bytes)} left"
    left_s = found.left_s()
    return line + (f", about {age_text(left_s)}" if left_s is not None else "")


@command("status")
def status(home: RingHome, as_json: bool) -> None:
    """How far the present move is."""
    _show(home, as_json=as_json)


@command("watch")
@click.option("--timeout", "timeout_s", type=float, help="Give up after so many seconds (exit code 3).")
def watch(home: RingHome, as_json: bool, timeout_s: float | None) -> None:
    """Show a progress bar until the move is done (lines where no terminal watches)."""
    import threading

    from ringstead.rings.change import progress

    generations = home.generations()
    ending_s = time.monotonic() + timeout_s if timeout_s is not None else None
    waiting = threading.Event()
    if not progress(home.settings, generations).answering:
        _require_cluster(home)
    with _bar(as_json) as show:
        while True:
            found = progress(home.settings, generations)
            show(found)
            if not found.under_way:
                return
            if ending_s is not None and time.monotonic() > ending_s:
                click.get_current_context().exit(NOTHING_EXIT)
            waiting.wait(WATCH_S)


class _bar:  # noqa: N801 (used as a function)
    """Shows progress: a bar on a terminal, else a line (or JSON) whenever something has changed."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._last = ""
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Callable[[Progress], None]:
        if self._as_json or not sys.stdout.isatty():
            return self._say
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._progress = Bar(BarColumn(bar_width=24), TextColumn("{task.description}"))
        self._task = self._progress.add_task("", total=1.0)
        self._progress.start()
        return self._draw

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _draw(self, found: Progress) -> None:
        share = 1.0 if not found.under_way else found.share
        self._progress.update(self._task, completed=share, description=progress_text(found))

    def _say(self, found: Progress) -> None:
        text = progress_text(found)
        if text != self._last:
            self._last = text
            click.echo(json.dumps(found.as_json()) if self._as_json else text)


# ------------------------------------------------------------------------------------------------------------- growing


@command("grow")
@click.option("--zones", type=int, help="So many zones in all.")
@click.option("--devices-per-zone", type=int, help="So many devices in each.")
@rate_options
def grow(
    home: RingHome,
    as_json: bool,
    zones: int | None,
    devices_per_zone: int | None,
    rate: str | None,
    device_rate: str | None,
) -> None:
    """Give a cluster on one machine more zones, or more devices in each, and begin to move data there.

    Exit code 3: all that was asked for is there.
    """
    from ringstead.commands.cluster.ring_growth import add_missing, not_in_force
    from ringstead.rings.change import MoveUnderWay

    if home.directory is None:
        raise UsageError(
            "`grow` is for a cluster on one machine; elsewhere: `ringstead ring add`, then `rebalance start`"
        )
    if zones is None and devices_per_zone is None:
        raise UsageError("say how many there shall be: `--zones N`, `--devices-per-zone N`")
    generations = home.generations()
    if generations.moving:
        raise MoveUnderWay("data still moves to the present ring; grow when that is done (`ringstead rebalance watch`)")
    add_missing(home, zones, devices_per_zone)
    added = not_in_force(home, generations.newest)
    if not added:
        if not as_json:
            click.echo("All that was asked for is there.")
        click.get_current_context().exit(NOTHING_EXIT)
    epoch = _begin(home, rate, device_rate)
    names = ", ".join(added)
    if as_json:
        click.echo(json.dumps({"added": added, "epoch": epoch}))
    else:
        click.echo(f"{names} joined; data moves there (`ringstead rebalance watch` shows how far it is).")
