"""`ringstead fsck DEVICE`: is this device sound?

The examination is the storage node's (storage_node/fsck.py); this says it to people, or as JSON to programs. Exit codes:
0 nothing is wrong, 1 something is, 2 it could not be examined (no device, in use, unreadable).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ringstead.commands.options import json_option
from storage_node.errors import DeviceError, DeviceInUse
from storage_node.fsck import Report, examine

CLEAN, PROBLEMS, CANNOT = 0, 1, 2
SHOWN_MAX = 100
"""Findings printed for people; JSON has them all."""


def describe(report: Report) -> list[str]:
    """The report in lines for people."""
    lines = [f"{report.path}: device {report.name} ({report.uuid})"]
    lines += [f"  recovery: {note}" for note in report.notes]
    if report.fenced:
        lines.append(f"  fenced, takes no writes: {report.fenced}")
    lines += [f"  {finding.part}: {finding.what}" for finding in report.findings[:SHOWN_MAX]]
    if len(report.findings) > SHOWN_MAX:
        lines.append(f"  and {len(report.findings) - SHOWN_MAX} more (--json shows all)")
    figures = report.figures
    lines.append(
        f"  {figures['objects']} objects ({figures['blobs']} in files of their own, {figures['blob_bytes']} bytes), "
        f"{figures['tombstones']} tombstones, {figures['containers']} containers, {figures['accounts']} accounts, "
        f"{figures['rows']} rows; {figures['log_records']} log records read"
    )
    if figures["orphans_removed"]:
        lines.append(f"  {figures['orphans_removed']} unfinished uploads cleared away")
    lines.append("  clean" if report.clean else f"  {len(report.findings)} problems: repair it from its peers")
    return lines


@click.command
@click.argument("device", type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Read every byte of every large object as well.")
@json_option
def fsck(device: Path, deep: bool, as_json: bool) -> None:
    """Check the device in the directory DEVICE.

    No process may be serving it. A device that was not closed in order is recovered first, as its next start would do.
    """
    try:
        report = examine(device, deep=deep)
    except (DeviceError, OSError) as error:
        hint = ". Stop the storage service that serves it, then try again." if isinstance(error, DeviceInUse) else ""
        if as_json:
            click.echo(json.dumps({"clean": None, "path": str(device), "error": f"{error}{hint}"}))
        else:
            click.echo(f"ringstead: {error}{hint}", err=True)
        sys.exit(CANNOT)
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        for line in describe(report):
            click.echo(line)
    sys.exit(CLEAN if report.clean else PROBLEMS)
