"""Commands called in this process: the code that `ringstead` runs, without half a second for a process each.

That `main` turns failures into one line and an exit code is shown by processes in tests/ringstead/test_cli.py; here it is
done the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import click
from click.testing import CliRunner

from ringstead.errors import RingsteadError


class Answer(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    error: str
    """The line on standard error; else what it wrote there."""


def call(command: click.Command, words: Sequence[str], **options: str) -> Answer:
    """Run a command, as `main` would, without anybody at the keyboard. What nobody explains is raised."""
    result = CliRunner().invoke(command, list(words), standalone_mode=False, **options)  # type: ignore[arg-type]
    match result.exception:
        case None:
            code = result.return_value
            return Answer(code if isinstance(code, int) else 0, result.stdout, result.stderr)
        case click.exceptions.Abort():
            return Answer(130, result.stdout, "interrupted")
        case click.ClickException() as error:
            return Answer(error.exit_code, result.stdout, error.format_message())
        case RingsteadError() as error:
            return Answer(error.exit_code, result.stdout, str(error))
        case error:
            raise error
