"""The storage service: the devices of one node, behind sockets, and what peers want to know of the rings.

Which devices: those that its settings name together with an address (`listen`, as `ringstead up` does it: a process for
each device, which needs no ring in its memory), or those that the rings in force have for this node. In the second case the
service follows the rings: a new device of its node is opened and served, one that is in no ring any more is closed.
Requests to other devices do not notice.

What operators see of its devices and can do with them is in device_desk.py.

Either way peers are told which rings are in force here, and given them (ring_files.py). A peer that knows a newer ring than
this node says so in its handshake; a service that follows rings then fetches it, in case nothing else on its node does.

Invariants: a device that cannot be opened costs the others nothing (it is tried again); a device is let go only when no
ring in force has it, which it is not before its move is done.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from ringstead.errors import ConfigError, RingsteadError
from ringstead.processes.control import control_path, serve_control
from ringstead.processes.life import Stop
from ringstead.processes.sockets import listen, socket_path, tcp_address
from ringstead.rings.files import RingFiles
from ringstead.services.storage.desk import DeviceDesk
from ringstead.settings.cluster_key import load_cluster_key
from ringstead.settings.config import StorageConfig
from storage_node.device import Device
from storage_node.errors import DeviceError
from storage_node.server import StorageServer
from storage_node.settings import DeviceSettings

if TYPE_CHECKING:
    from ring.ring import Ring

LOOK_S: Final = 1.0
"""How often the rings are looked at."""
EPOCH_MAX: Final = (1 << 63) - 1
FETCH_TIMEOUT_S: Final = 20.0
"""For asking one peer for a ring that another has told of."""

Address = tuple[str, int]

log = structlog.get_logger("ringstead.storage")


async def run_storage(config: StorageConfig, stop: Stop, ready: Callable[[], None]) -> None:
    """Serve until told to stop. Raises RingsteadError where it cannot begin."""
    key = load_cluster_key(config.cluster_key_file)
    following = None if config.listen else _Following(config, key)
    addresses = _named_devices(config) if following is None else await following.begin()
    devices, failed = _open_all(config, addresses)
    try:
        listeners = _Listeners(config)
        files = RingFiles(config.ring_file)
        server = StorageServer(
            devices,
            key,
            ring_epoch=files.epoch,
            rings=files.answer,
            on_peer_epoch=(lambda _: None) if following is None else following.hear,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, listeners.open(addresses.values()))
            if following is not None:
                nursery.start_soon(following.run, server, devices, listeners)
            desk = DeviceDesk(devices, server, partial(open_device, config), failed)
            nursery.start_soon(desk.run)
            await nursery.start(serve_control, control_path(config.socket_dir, config.title), desk.operations())
            ready()
            await stop.wait()
            server.stop()
            nursery.cancel_scope.cancel()
    finally:
        for device in devices.values():
            device.close()


def _open_all(config: StorageConfig, names: Iterable[str]) -> tuple[dict[str, Device], dict[str, RingsteadError]]:
    """The devices that can be opened, and why the others can't. Raises RingsteadError where none can."""
    devices: dict[str, Device] = {}
    failed: dict[str, RingsteadError] = {}
    for name in names:
        try:
            devices[name] = open_device(config, name)
        except RingsteadError as error:
            failed[name] = error
    if not devices:
        raise next(iter(failed.values()))
    return devices, failed


def _named_devices(config: StorageConfig) -> dict[str, Address]:
    """Name -> (node, port) of the devices that the settings name with their address. Raises ConfigError."""
    node, _, port = config.listen.rpartition(":")
    if not node or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ConfigError(f"listen {config.listen!r}: expected IP:PORT")
    if not config.devices:
        raise ConfigError("listen without devices: name the devices, or leave both to the ring")
    return dict.fromkeys(config.devices, (node.strip("[]"), int(port)))


class _Listeners:
    """The sockets that are listened at, each opened once."""

    def __init__(self, config: StorageConfig) -> None:
        self._socket_dir = config.socket_dir
        self._opened: set[Address] = set()

    def open(self, addresses: Iterable[Address]) -> list[socket.socket]:
        """Listeners at those addresses that have none yet. Raises RingsteadError."""
        listeners = []
        for node, port in dict.fromkeys(addresses):
            if (node, port) not in self._opened:
                self._opened.add((node, port))
                listeners.append(listen(f"unix:{socket_path(self._socket_dir, node, port)}"))
                listeners.append(listen(tcp_address(node, port)))
        return listeners


class _Following:
    """The devices that the rings in force have for a node."""

    def __init__(self, config: StorageConfig, key: bytes) -> None:
        from ringstead.rings.in_force import load_generations

        self._config = config
        self._key = key
        self._generations = load_generations(config.ring_file)
        self._told = trio.Event()
        self._told_epoch = 0
        self._failed: set[str] = set()

    def addresses(self) -> dict[str, Address]:
        """Name -> (node, port), the newest ring's word first. Raises ConfigError for a name that no ring has here."""
        found: dict[str, Address] = {}
        for ring in reversed(self._generations.rings):
            found.update(
                (device.name, (device.node, device.port))
                for device in ring.devices
                if device is not None and device.kind == "disk" and device.node == self._config.node
            )
        named = self._config.devices
        if missing := [name for name in named if name not in found]:
            raise ConfigError(f"the ring has no device {missing[0]!r} at node {self._config.node}")
        return {name: found[name] for name in named} if named else found

    async def begin(self) -> dict[str, Address]:
        """Name -> (node, port) of the devices to begin with. Raises ConfigError if there are none.

        Where the ring at hand has none, other nodes are asked for a newer one: so a machine joins with any ring of its
        cluster.
        """
        known = self._any_addresses()
        if not known or any(name not in known for name in self._config.devices):
            await self._fetch_newer(EPOCH_MAX)
            self._generations.look()
        addresses = self.addresses()
        if not addresses:
            raise ConfigError(f"the ring has no device at node {self._config.node}")
        return addresses

    def hear(self, epoch: int) -> None:
        """A peer has a ring with this epoch."""
        if epoch > max(self._told_epoch, self._generations.newest.epoch):
            self._told_epoch = epoch
            self._told.set()

    async def run(self, server: StorageServer, devices: dict[str, Device], listeners: _Listeners) -> None:
        """Open and close devices as rings come and go, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fetch_for_ever)
            while True:
                await trio.sleep(LOOK_S)
                if self._generations.look() or self._failed:
                    await self._follow(server, devices, listeners)

    async def _follow(self, server: StorageServer, devices: dict[str, Device], listeners: _Listeners) -> None:
        try:
            wanted = self.addresses()
        except ConfigError as error:
            log.warning("a device is in no ring any more", reason=str(error))
            wanted = {name: address for name, address in self._any_addresses().items() if name in devices}
        for name in [name for name in devices if name not in wanted]:
            log.info("a device is in no ring any more and is closed", device=name)
            device = await server.remove_device(name)
            del devices[name]
            device.close()
        for name, address in wanted.items():
            if name not in devices:
                await self._open(name, address, server, devices, listeners)

    def _any_addresses(self) -> dict[str, Address]:
        return {
            device.name: (device.node, device.port)
            for ring in reversed(self._generations.rings)
            for device in ring.devices
            if device is not None and device.kind == "disk" and device.node == self._config.node
        }

    async def _open(
        self, name: str, address: Address, server: StorageServer, devices: dict[str, Device], listeners: _Listeners
    ) -> None:
        try:
            device = await trio.to_thread.run_sync(open_device, self._config, name)
        except RingsteadError as error:
            if name not in self._failed:
                log.error("a new device cannot be opened; it is tried again", device=name, reason=str(error))
            self._failed.add(name)
            return
        devices[name] = device
        server.add_device(name, device)
        self._failed.discard(name)
        try:
            for listener in listeners.open([address]):
                server.add_listener(listener)
        except RingsteadError as error:
            log.error("a new device cannot be reached", device=name, reason=str(error))
        log.info("a new device is served", device=name)

    async def _fetch_for_ever(self) -> None:
        while True:
            await self._told.wait()
            self._told = trio.Event()
            await self._fetch_newer(self._told_epoch)
            self._told_epoch = 0

    async def _fetch_newer(self, epoch: int) -> None:
        """Ask one node after the other for newer rings, until one with that epoch is here."""
        files = RingFiles(self._config.ring_file)
        for address, name in self._one_of_each_node(self._generations.newest):
            if files.epoch() >= epoch:
                break
            with trio.move_on_after(FETCH_TIMEOUT_S):
                await self._fetch(files, address, name)

    def _one_of_each_node(self, ring: Ring) -> list[tuple[str, str]]:
        """(address, name) of a device of each other node."""
        by_node = {
            device.node: (tcp_address(device.node, device.port), device.name)
            for device in ring.devices
            if device is not None and device.kind == "disk" and device.node != self._config.node
        }
        return list(by_node.values())

    async def _fetch(self, files: RingFiles, address: str, name: str) -> None:
        from ring.generations import TooManyMoves
        from ring.moves import MoveStateError
        from ring.ring_file import RingFileError
        from ringstead.rings.spread import Refused, take_from
        from storage_node.client import DeviceClient

        client = DeviceClient(address, name, self._key)
        async with trio.open_nursery() as nursery:
            await nursery.start(client.run)
            try:
                await take_from(self._config.ring_file, files, client)
            except (Refused, RingFileError, MoveStateError, TooManyMoves, OSError, ValueError) as error:
                log.error("a node's rings are not taken", address=address, reason=str(error))
            nursery.cancel_scope.cancel()


def open_device(config: StorageConfig, name: str) -> Device:
    """Open a device of this node, made if its settings allow it. Raises RingsteadError."""
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
            # Whether one of this name held data before, nobody here knows: it is filled once the replicator says so.
            Device.create(path, name, filling=True)
        return Device.open(path, settings=settings)
    except (DeviceError, OSError, ValueError) as error:
        raise RingsteadError(f"device {path}: {error}") from error
