"""The rings in force, as a node's services load them, and what they say of this node: its devices, and how to reach others.

A ring file that cannot be used is the settings' fault: ConfigError, with the file's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringstead.errors import ConfigError
from ringstead.processes.sockets import socket_path, tcp_address
from ringstead.settings.config import ServiceConfig

if TYPE_CHECKING:
    from ring.generations import Generations
    from ring.ring import Ring


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
