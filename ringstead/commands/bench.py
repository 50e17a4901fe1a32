"""`ringstead bench`: the benchmarks of the checkout that this command was installed from.

They stand beside the product and above it (they start it, and its peers), so the product does not import them: they run as a
process of their own, `python -m bench`, in the checkout.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ringstead.errors import UsageError

CHECKOUT = Path(__file__).resolve().parents[2]


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure, beside Swift and other peers that are installed."""
    if not (CHECKOUT / "bench" / "__main__.py").exists():
        raise UsageError("the benchmarks are part of the source: run `make bench` in a checkout of it")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH")))),
    }
    os.execve(sys.executable, [sys.executable, "-m", "bench", *arguments], environment)
