"""Each service, built from its settings: what is opened, in which order, and when it counts as ready.

Problem: ten processes run on a small machine, and a device's process needs neither numpy nor an HTTP parser.

Idea: one function a service, that imports what it needs and no more; `run_service` does what all of them share: die with
the supervisor, logs, signals, the garbage collector, the control socket. A failure that has an explanation ends in one
line on standard error (which the supervisor shows) and in the log; one that has none is logged with its trace-back.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from ringstead import logs
from ringstead.cluster_key import load_cluster_key
from ringstead.config import DaemonsConfig, ProxyConfig, ServiceConfig, StorageConfig
from ringstead.errors import ConfigError, RingsteadError
from ringstead.process import (
    Stop,
    one_failure,
    run_until_stopped,
    settle,
    take_ready_pipe,
    tie_to_supervisor,
)
from ringstead.sockets import listen, socket_path, tcp_address

if TYPE_CHECKING:
    import socket

    from ring.generations import Generations
    from ring.ring import Ring
    from storage_node.device import Device

Ready = Callable[[], None]
DRAIN_S: Final = 10.0
"""How long a proxy lets running requests finish when it is told to stop."""


def run_service(config: ServiceConfig) -> int:
    """Run one service until it is told to stop; -> the exit code."""
    tie_to_supervisor()
    ready = take_ready_pipe()
    logs.set_up(config.title, config.log_level, config.log_file, config.log_file_bytes_max)
    import structlog

    log = structlog.get_logger("ringstead.services")
    log.info("starting")
    main = _SERVICES[config.service]

    def announce() -> None:
        settle()
        log.info("ready")
        ready()

    try:
        with one_failure():
            run_until_stopped(lambda stop: main(config, stop, announce))
    except RingsteadError as error:
        log.error("service ends", reason=str(error))
        print(f"ringstead: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        log.exception("service failed")
        print(f"ringstead: {config.title} failed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    log.info("stopped")
    return 0


# --------------------------------------------------------------------------------------------------------------- storage


async def _run_storage(config: StorageConfig, stop: Stop, ready: Ready) -> None:
    from storage_node.server import StorageServer

    key = load_cluster_key(config.cluster_key_file)
    addresses = _device_addresses(config)
    devices = {name: _open_device(config, name) for name in addresses}
    try:
        listeners: list[socket.socket] = []
        for node, port in dict.fromkeys(addresses.values()):
            listeners.append(listen(f"unix:{socket_path(config.socket_dir, node, port)}"))
            listeners.append(listen(tcp_address(node, port)))
        server = StorageServer(devices, key)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, listeners)
            ready()
            await stop.wait()
            server.stop()
    finally:
        for device in devices.values():
            device.close()


def _device_addresses(config: StorageConfig) -> dict[str, tuple[str, int]]:
    """Name -> (node, port) of the devices to serve. Raises ConfigError."""
    if config.listen:
        node, _, port = config.listen.rpartition(":")
        if not node or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ConfigError(f"listen {config.listen!r}: expected IP:PORT")
        if not config.devices:
            raise ConfigError("listen without devices: name the devices, or leave both to the ring")
        return dict.fromkeys(config.devices, (node.strip("[]"), int(port)))
    ring = load_ring(config.ring_file)
    known = {
        device.name: (device.node, device.port)
        for device in ring.devices
        if device is not None and device.kind == "disk" and device.node == config.node
    }
    if missing := [name for name in config.devices if name not in known]:
        raise ConfigError(f"the ring has no device {missing[0]!r} at node {config.node}")
    chosen = {name: known[name] for name in config.devices} if config.devices else known
    if not chosen:
        raise ConfigError(f"the ring has no device at node {config.node}")
    return chosen


def _open_device(config: StorageConfig, name: str) -> Device:
    from storage_node.device import Device
    from storage_node.errors import DeviceError
    from storage_node.settings import DeviceSettings

    path = config.devices_dir / name
    try:
        settings = DeviceSettings(
            inline_bytes_max=config.inline_bytes_max,
            free_bytes_min=config.free_bytes_min,
            free_bytes_min_delete=config.free_bytes_min_delete,
        )
        if not path.exists() or not any(entry.name != "lost+found" for entry in path.iterdir()):
            if not config.create_devices:
                raise RingsteadError(f"{path} is empty (not mounted?), and create_devices is off")
            Device.create(path, name)
        return Device.open(path, settings=settings)
    except (DeviceError, OSError, ValueError) as error:
        raise RingsteadError(f"device {path}: {error}") from error


# ----------------------------------------------------------------------------------------------------------------- proxy


async def _run_proxy(config: ProxyConfig, stop: Stop, ready: Ready) -> None:
    from ringstead.proxy_service import run_proxy

    await run_proxy(config, stop, ready)


# --------------------------------------------------------------------------------------------------------------- daemons


async def _run_daemons(config: DaemonsConfig, stop: Stop, ready: Ready) -> None:
    from ringstead.daemon_service import run_daemons

    await run_daemons(config, stop, ready)


# ---------------------------------------------------------------------------------------------------------------- shared


def load_ring(path: Path) -> Ring:
    """The ring. Raises ConfigError."""
    from ring import ring_file

    try:
        return ring_file.load(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ring_file.RingFileError as error:
        raise ConfigError(str(error)) from error


def load_generations(path: Path) -> Generations:
    """The rings in force. Raises ConfigError."""
    from ring.generations import Generations
    from ring.ring_file import RingFileError

    try:
        return Generations(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except RingFileError as error:
        raise ConfigError(str(error)) from error


def devices_of_node(rings: Iterable[Ring], node: str, devices_dir: Path) -> dict[int, Path]:
    """The directories of this node's devices under any of the rings, by the devices' ids, whether there now or not."""
    return {
        device.id: devices_dir / device.name
        for ring in rings
        for device in ring.devices
        if device is not None and device.kind == "disk" and device.node == node
    }


def local_devices(ring: Ring, node: str, devices_dir: Path) -> dict[int, Path]:
    """The directories of this node's devices, by the devices' ids, as far as they are there."""
    return {number: path for number, path in devices_of_node((ring,), node, devices_dir).items() if path.is_dir()}


def addresses(config: ServiceConfig) -> Callable[[Any], str]:
    """How to reach a device of the ring from this node: its Unix socket where the machine is the same, else TCP."""

    def address_of(device: Any) -> str:
        if device.node == config.node:
            return f"unix:{socket_path(config.socket_dir, device.node, device.port)}"
        return tcp_address(device.node, device.port)

    return address_of


_SERVICES: dict[str, Callable[[Any, Stop, Ready], Awaitable[None]]] = {
    "daemons": _run_daemons,
    "proxy": _run_proxy,
    "storage": _run_storage,
}
