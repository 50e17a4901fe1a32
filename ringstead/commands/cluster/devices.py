"""`ringstead device`: the devices of a cluster, and taking those of this machine out of service and back into it.

    ringstead device list                         all devices of the ring, with what is wrong
    ringstead device show z1d1                    one of this machine, with all its figures
    ringstead device fence z1d1 --reason "…"      no more writes to it; reads go on
    ringstead device release z1d1                 it takes writes again, and gets what it missed

`list` asks over the wire, as proxies do. The others speak to the process that has the device, through its control socket; on
a node without `ringstead up` say which with `--config storage.toml`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

import click

from ringstead.commands.options import data_option, json_option, service_option
from ringstead.errors import ClusterDown, RingsteadError, UsageError

ASK_TIMEOUT_S: Final = 120.0
"""Opening a device anew replays its log."""


@click.group()
def device() -> None:
    """Show devices; take them out of service and back."""


@device.command(name="list")
@data_option
@service_option
@json_option
def list_devices(data: Path, config: Path | None, as_json: bool) -> None:
    """Show all devices of the ring, and what is wrong with them."""
    from ringstead.commands.access import cluster_settings, open_cluster, run_command
    from ringstead.commands.cluster.device_status import DeviceStatus, ask_devices, device_table, require_one_up

    settings = cluster_settings(data, config)

    async def ask() -> list[DeviceStatus]:
        async with open_cluster(settings) as cluster:
            return await ask_devices(cluster)

    devices = run_command(ask)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in devices]))
    else:
        from rich.console import Console

        Console(soft_wrap=True, highlight=False).print(device_table(devices))
        for one in devices:
            for remark in one.remarks:
                click.echo(remark)
    require_one_up(devices)


@device.command()
@click.argument("name")
@data_option
@service_option
@json_option
def show(name: str, data: Path, config: Path | None, as_json: bool) -> None:
    """Show all figures of a device of this machine."""
    answer = _ask(name, data, config, "status")
    if name not in answer["devices"]:
        if name in answer["closed"]:
            raise RingsteadError(f"{name} is not open: {answer['closed'][name]}; it is tried again by itself")
        raise UsageError(f"the process serves no device {name!r}; it serves {', '.join(answer['devices'])}")
    _print(name, answer["devices"][name], as_json)


@device.command()
@click.argument("name")
@click.option("--reason", default="", help="Shown wherever the fence is.")
@data_option
@service_option
@json_option
def fence(name: str, reason: str, data: Path, config: Path | None, as_json: bool) -> None:
    """Let a device of this machine take no more writes; reads go on."""
    _print(name, _ask(name, data, config, "fence", name=name, reason=reason), as_json)


@device.command()
@click.argument("name")
@data_option
@service_option
@json_option
def release(name: str, data: Path, config: Path | None, as_json: bool) -> None:
    """Let a fenced device take writes again; what it missed comes by itself."""
    _print(name, _ask(name, data, config, "release", name=name), as_json)


def _ask(device_name: str, data: Path, config: Path | None, operation: str, **arguments: Any) -> dict[str, Any]:
    """Ask the process that serves a device. Raises RingsteadError."""
    from ringstead.commands.access import service_settings
    from ringstead.processes.control import ask, control_path
    from ringstead.settings.config import StorageConfig

    if config is None:
        _check_name(data, device_name)
    settings = service_settings(data, config, f"storage-{device_name}")
    if not isinstance(settings, StorageConfig):
        raise UsageError(f"{config}: these are settings for {settings.service}; give those of the storage service")
    try:
        answer = ask(control_path(settings.socket_dir, settings.title), operation, timeout_s=ASK_TIMEOUT_S, **arguments)
    except ClusterDown as error:
        raise ClusterDown(f"the process of {device_name} does not answer; is it running? ({error})") from error
    if "error" in answer:
        raise RingsteadError(str(answer["error"]))
    return answer


def _check_name(data: Path, device_name: str) -> None:
    """Raise UsageError for a device that the cluster on this machine has not."""
    from ringstead.one_machine.growth import storage_names
    from ringstead.one_machine.layout import DataDirectory

    names = [name.removeprefix("storage-") for name in storage_names(DataDirectory(data))]
    if names and device_name not in names:
        raise UsageError(f"there is no device {device_name!r} here; there are {', '.join(names)}")


def _print(name: str, described: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(described))
        return
    state = f"takes no writes: {described['fenced']}" if described["fenced"] else "takes writes"
    click.echo(f"{name} {state}")
    if described["full"]:
        click.echo(f"{name} is full: {described['full']}")
    if described["filling"]:
        click.echo(f"{name} is being filled: other replicas answer for it")
    for note in described["notes"]:
        click.echo(f"when it was opened: {note}")
    for field, value in described.items():
        if field not in ("name", "fenced", "full", "filling", "notes"):
            click.echo(f"  {field} {value:,}" if isinstance(value, (int, float)) else f"  {field} {value}")
