"""Daemons as `ringstead daemon` and `ringstead status` show them to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ringstead.commands.figures import age_text, rate_text

if TYPE_CHECKING:
    from rich.table import Table

Described = Mapping[str, Any]
"""A daemon as `Desk.describe` gives it."""


def state_of(described: Described) -> tuple[str, str]:
    """A daemon's state in a word, and its colour."""
    statistics = described["statistics"]
    if statistics["paused"]:
        return "paused", "yellow"
    if described["failing"]:
        return "failing", "red"
    return ("behind", "yellow") if statistics["backlog"] else ("well", "green")


def rates_of(described: Described) -> str:
    """All rates in a line, the one that is meant when none is named first."""
    return ", ".join(
        f"{rate_text(name, rate['value'])}{' *' if rate['kept'] else ''}" for name, rate in described["rates"].items()
    )


def daemon_table(daemons: Mapping[str, Described]) -> Table:
    """One line a daemon. A rate that was set by hand has a star."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("DAEMON", "STATE", "WAITS", "OLDEST", "RATE"):
        table.add_column(heading, justify="right" if heading in ("WAITS", "OLDEST") else "left")
    for name, described in daemons.items():
        statistics = described["statistics"]
        state, colour = state_of(described)
        oldest = age_text(statistics["oldest_s"]) if statistics["backlog"] else ""
        table.add_row(name, f"[{colour}]{state}[/]", f"{statistics['backlog']:,}", oldest, rates_of(described))
    return table


def daemon_lines(name: str, described: Described) -> list[str]:
    """All that there is to say of one daemon."""
    statistics = dict(described["statistics"])
    backlog, oldest_s = statistics.pop("backlog"), statistics.pop("oldest_s")
    statistics.pop("paused")
    state, _ = state_of(described)
    waits = f"{backlog:,} {described['waits']}" + (f", the oldest for {age_text(oldest_s)}" if backlog else "")
    lines = [f"{name} is {state}. {described['text']}", f"waits    {waits}"]
    if described["failures"]:
        lines.append(f"failed   {described['failures']} times and was begun again; last: {described['last_failure']}")
    for rate_name, rate in described["rates"].items():
        setting = f" (set by hand; {rate_text(rate_name, rate['setting'])} in the settings)" if rate["kept"] else ""
        lines.append(f"rate     {rate_name} {rate_text(rate_name, rate['value'])}{setting}: {rate['text']}")
        statistics.pop(rate_name, None)
    lines += [f"         {field} {_figure(value)}" for field, value in statistics.items()]
    return lines


def change_lines(name: str, action: str, described: Described) -> list[str]:
    """What a daemon is after a change, and how to undo that."""
    state, _ = state_of(described)
    paused = described["statistics"]["paused"]
    lasts = ", also when its process begins anew" if action == "pause" else ""
    rates = ", ".join(f"{rate} {rate_text(rate, found['value'])}" for rate, found in described["rates"].items())
    if action != "rate":
        undo = (
            f"`ringstead daemon {name} {'resume' if paused else 'pause'}` {'lets it go on' if paused else 'holds it'}"
        )
        return [f"{name} is {state}{lasts}", undo]
    by_hand = any(found["kept"] for found in described["rates"].values())
    undo = f"`ringstead daemon {name} rate default` is back to the settings" if by_hand else "as the settings say"
    return [f"{name} is {state}; at most {rates}", undo]


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_figure(item)}" for key, item in value.items()) or "none"
    return str(value)
