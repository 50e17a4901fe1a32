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

from ringstead import logs
from ringstead.config import ControllerConfig, DaemonsConfig, ProxyConfig, ServiceConfig, StorageConfig
from ringstead.errors import ConfigError, RingsteadError
from ringstead.process import (
    Stop,
    one_failure,
    run_until_stopped,
    settle,
    take_ready_pipe,
    tie_to_supervisor,
)
from ringstead.sockets import socket_path, tcp_address

if TYPE_CHECKING:
    from ring.generations import Generations
    from ring.ring import Ring

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
    from ringstead.storage_service import run_storage

    await run_storage(config, stop, ready)


# ----------------------------------------------------------------------------------------------------------------- proxy


async def _run_proxy(config: ProxyConfig, stop: Stop, ready: Ready) -> None:
    from ringstead.proxy_service import run_proxy

    await run_proxy(config, stop, ready)


# --------------------------------------------------------------------------------------------------------------- daemons


async def _run_daemons(config: DaemonsConfig, stop: Stop, ready: Ready) -> None:
    from ringstead.daemon_service import run_daemons

    await run_daemons(config, stop, ready)


# ------------------------------------------------------------------------------------------------------------ controller


async def _run_controller(config: ControllerConfig, stop: Stop, ready: Ready) -> None:
    from ringstead.controller_service import run_controller

    await run_controller(config, stop, ready)


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
    "controller": _run_controller,
    "daemons": _run_daemons,
    "proxy": _run_proxy,
    "storage": _run_storage,
}
