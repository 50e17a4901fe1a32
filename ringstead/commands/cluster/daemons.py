"""`ringstead daemon`: what a node's daemons do, and telling them to go slower, to wait, to go on.

    ringstead daemon list                                 all of them
    ringstead daemon auditor                              one, with all its figures
    ringstead daemon auditor pause | resume
    ringstead daemon auditor rate 16MiB                   its first rate
    ringstead daemon auditor rate entries_per_s 500       another
    ringstead daemon auditor rate default                 all of them as the settings say

The name comes before the verb, as one says it; what was told holds across restarts. A command speaks to the daemons of this
machine, through their control socket: each node has its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ringstead.commands.options import RateCommand, data_option, json_option, service_option
from ringstead.errors import ClusterDown, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

ASK_TIMEOUT_S: Final = 10.0
_ACTIONS: Final = ("show", "pause", "resume", "rate")


@click.command(cls=RateCommand)
@click.argument("name", metavar="list|NAME", default="list")
@click.argument("action", type=click.Choice(_ACTIONS), default="show", metavar="[show|pause|resume|rate]")
@click.argument("values", nargs=-1, metavar="[RATE] VALUE|default")
@data_option
@service_option
@json_option
def daemon(name: str, action: str, values: tuple[str, ...], data: Path, config: Path | None, as_json: bool) -> None:
    """Show the daemons of this node; pause, resume and slow them.

    NAME is replicator, auditor, updater, expirer, reaper or reclaimer; `list` shows all. `rate 16MiB` sets a daemon's
    first rate, `rate entries_per_s 500` another, `rate default` lets all of them be what the settings say.
    """
    from ringstead.commands.cluster.daemon_output import change_lines, daemon_lines, daemon_table

    path = _control(data, config)
    if name == "list":
        if action != "show" or values:
            raise UsageError("`daemon list` takes nothing more; name one daemon to change it")
        daemons = _ask(path, "status")["daemons"]
        if as_json:
            click.echo(json.dumps(daemons))
        else:
            from rich.console import Console

            Console(soft_wrap=True, highlight=False).print(daemon_table(daemons))
        return
    if action == "show":
        daemons = _ask(path, "status")["daemons"]
        if name not in daemons:
            raise UsageError(f"there is no daemon {name!r}; there are {', '.join(daemons)}")
        described = daemons[name]
    else:
        described = _ask(path, "change", name=name, **_wish(action, values))
    if as_json:
        click.echo(json.dumps(described))
    else:
        click.echo(
            "\n".join(change_lines(name, action, described) if action != "show" else daemon_lines(name, described))
        )


def _wish(action: str, values: Sequence[str]) -> dict[str, Any]:
    """What the desk is asked to change."""
    from ringstead.commands.figures import parse_rate

    if action in ("pause", "resume"):
        if values:
            raise UsageError(f"`{action}` takes nothing more")
        return {"paused": action == "pause"}
    if not 1 <= len(values) <= 2:
        raise UsageError("`rate` takes a value, or the name of a rate and a value")
    rate = values[0] if len(values) == 2 else ""
    return {"rates": {rate: None if values[-1] == "default" else parse_rate(values[-1])}}


def _control(data: Path, config: Path | None) -> Path:
    from ringstead.commands.access import service_settings
    from ringstead.processes.control import control_path
    from ringstead.settings.config import DaemonsConfig

    settings = service_settings(data, config, "daemons")
    title = settings.title if isinstance(settings, DaemonsConfig) else DaemonsConfig.service
    return control_path(settings.socket_dir, title)


def _ask(path: Path, operation: str, **arguments: Any) -> dict[str, Any]:
    from ringstead.processes.control import ask

    try:
        answer = ask(path, operation, timeout_s=ASK_TIMEOUT_S, **arguments)
    except ClusterDown as error:
        raise ClusterDown(f"the daemons of this node do not answer; are they running? ({error})") from error
    if "error" in answer:
        raise UsageError(str(answer["error"]))
    return answer
