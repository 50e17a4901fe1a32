"""Options that several commands have, spelt once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ringstead.commands.figures import parse_rate

F = TypeVar("F", bound=Callable[..., Any])

DATA_VARIABLE = "RINGSTEAD_DATA"
_NEGATIVE = re.compile(r"-\.?[0-9].*")


class RateCommand(click.Command):
    """A command that takes rates: a negative one is said to be none, rather than an option that there is not."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click.Command. Raises UsageError too."""
        for negative in filter(_NEGATIVE.fullmatch, args):
            parse_rate(negative)
        return super().parse_args(ctx, args)


def data_option(function: F) -> F:
    """`--data DIR`: the one-machine cluster that a command is about."""
    return click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("data"),
        envvar=DATA_VARIABLE,
        show_default="./data, or $RINGSTEAD_DATA",
        metavar="DIR",
        help="Folder of the one-machine cluster.",
    )(function)


def config_option(function: F) -> F:
    """`--config FILE`: any cluster, by the settings of a proxy on this machine."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Settings of a proxy on this machine, instead of --data.",
    )(function)


def service_option(function: F) -> F:
    """`--config FILE`: a node, by the settings of any service on it."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Settings of a service on this machine, instead of --data.",
    )(function)


def json_option(function: F) -> F:
    """`--json`: for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
