"""The simulated cluster: machines with their disks and clocks, and the processes that run on them.

Each machine has one device and three kinds of processes, all of the code that runs in production: `storage` (a device and
its server), `keeper` (all daemons of a node) and, on some, `proxy` (the object store). Some proxies read the device of
their machine directly, others only over the wire. A process that is killed is started again by whoever killed it;
one that ends by itself is a fault of the product.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, TypeVar

import trio

from proxy.cluster import CAUTIOUS_S, Cluster
from proxy.store import ObjectStore
from replicator.auditor import Auditor, AuditorSettings
from replicator.expirer import Expirer, ExpirerSettings
from replicator.peers import Peers
from replicator.reaper import Reaper, ReaperSettings
from replicator.reclaim import Reclaimer, ReclaimSettings
from replicator.replicator import Replicator, ReplicatorSettings
from replicator.updater import Updater, UpdaterSettings
from ring import ring_file
from ring.builder import build_ring
from ring.generations import finish, install
from ring.moves import MoveOrders
from ring.ring import Ring
from ring.topology import Device as RingDevice
from ringstead.rings.files import RingFiles
from ringstead.rings.following import RingFollower
from ringstead.rings.spread import sources_of
from ringstead.services.daemons.store_daemons import StoreGraves, StoreQueue, mend_row
from storage_node.device import Device
from storage_node.errors import DeviceError
from storage_node.reader import LocalReader
from storage_node.server import StorageServer
from storage_node.settings import KIB, MIB, DeviceSettings
from storage_node.timestamp import WRITER_BITS, Clock
from storage_node.wire_settings import ClientSettings
from tests.sim.disk import MachineDisk, SimDisk
from tests.sim.network import Network
from tests.sim.world import Process, Violation, World, wall_clock

T = TypeVar("T")
CLUSTER_KEY = b"k" * 32
RING_SEED = 5
PORT = 6200
FINISH_S = 300.0
"""A dead process is gone after this, however slow its machine is."""
CLIENT = ClientSettings(ping_s=10.0)
"""Pings every five seconds would be most of what the simulator does."""


class Lost(Exception):
    """The proxy died with the request in its hands: whether it was done is not known."""


@dataclass(frozen=True)
class Shape:
    """What kind of cluster a seed gets."""

    machines: int
    zones: int
    part_power: int
    direct: tuple[bool, ...]
    """For each proxy: whether it reads the device of its machine directly. Proxy i is on machine i."""
    together: bool
    """All devices are on one machine's file systems: proxies read all of them directly."""
    segment_bytes: int
    zero_ahead_bytes: int
    inline_bytes_max: int
    checkpoint_interval_ms: int
    settle_s: float
    round_s: float
    reclaim_age_s: float
    skew_max_s: float
    moves: bool
    """The ring changes while the run lasts."""
    cautious_s: float
    """How long after a failure reads ask more than a bare majority."""

    @staticmethod
    def draw(random: Random) -> Shape:
        """A cluster to be simulated."""
        machines = random.choice((4, 5, 6, 6))
        skew_max_s = random.choice((0.5, 20.0, 300.0))
        together = random.random() < 0.15
        return Shape(
            machines=machines,
            zones=random.choice((3, 3, 3, min(machines, 4))),
            part_power=random.choice((2, 4, 5)),
            direct=tuple(random.random() < 0.5 for _ in range(random.choice((1, 2, 2, 3)))),
            together=together,
            segment_bytes=random.choice((16, 64, 256)) * KIB,
            zero_ahead_bytes=random.choice((0, 16, 64)) * KIB,
            inline_bytes_max=random.choice((2, 16, 100)) * KIB,
            checkpoint_interval_ms=random.choice((5_000, 20_000, 60_000)),
            settle_s=random.choice((1.0, 5.0)),
            round_s=random.choice((10.0, 20.0, 40.0)),
            # Older than any write that may still be under way, by whatever clock, and than three passes of the auditor.
            reclaim_age_s=2 * skew_max_s + random.choice((450.0, 900.0)),
            skew_max_s=skew_max_s,
            moves=random.random() < 0.35 and not together,
            cautious_s=random.choice((1.0, 20.0, CAUTIOUS_S)),
        )

    def device_settings(self) -> DeviceSettings:
        """Of every device."""
        return DeviceSettings(
            segment_bytes=self.segment_bytes,
            zero_ahead_bytes=self.zero_ahead_bytes,
            inline_bytes_max=self.inline_bytes_max,
            fallocate_bytes=64 * KIB,
            free_bytes_min=64 * MIB,
            free_bytes_min_delete=32 * MIB,
            checkpoint_interval_ms=self.checkpoint_interval_ms,
            index_map_bytes=256 * MIB,
            recent_map_bytes=1 * MIB,
        )


@lru_cache(maxsize=64)
def ring_of(count: int, zones: int, part_power: int, epoch: int = 1, drained: int = -1) -> Ring:
    """A ring of equal devices, one a machine; `drained` is one that holds nothing."""
    devices = [
        RingDevice(i, 1, i % zones + 1, f"10.0.0.{i + 1}", PORT, f"d{i}", 0.0 if i == drained else 100.0)
        for i in range(count)
    ]
    return build_ring(devices, part_power, min(3, count), RING_SEED, epoch=epoch)


class Machine:
    """One machine: what survives its processes."""

    def __init__(self, cluster: SimCluster, number: int) -> None:
        world = cluster.world
        self.number = number
        self.name = f"m{number}"
        self.address = f"10.0.0.{number + 1}:{PORT}"
        self.up = True
        self.skew_us = 0
        self.path = cluster.folder / self.name
        self.disk = MachineDisk(self.path, world.stream(f"disk {number}"))
        self.ring_file = self.path / "ring"
        self.device_name = f"d{number}"
        self.device_path = self.path / self.device_name
        self.processes: dict[str, Process] = {}
        self.device: Device | None = None
        self.wall_us = wall_clock(world, lambda: self.skew_us)

    def __repr__(self) -> str:
        return self.name

    def thread_s(self) -> float:
        """What work in threads takes longer than usual."""
        return self.disk.slow_s


class Proxy:
    """A proxy process's inside, while it runs."""

    def __init__(self, process: Process, cluster: Cluster, store: ObjectStore, nursery: trio.Nursery) -> None:
        self.process = process
        self.cluster = cluster
        self.store = store
        self._nursery = nursery

    async def call(self, function: Callable[[ObjectStore], Awaitable[T]]) -> T:
        """Have the proxy do something. Raises what that raises, or Lost."""
        answer: list[T] = []
        error: list[Exception] = []
        done = trio.Event()

        async def serve() -> None:
            try:
                answer.append(await function(self.store))
            except Exception as raised:
                error.append(raised)
            done.set()

        async def until_dead() -> None:
            await self.process.done.wait()
            done.set()

        if not self.process.alive:
            raise Lost
        self._nursery.start_soon(serve)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_dead)
            await done.wait()
            nursery.cancel_scope.cancel()
        if answer and self.process.alive:
            return answer[0]
        if error and self.process.alive:
            raise error[0]
        raise Lost

    @property
    def newest_stamp(self) -> int:
        """No timestamp that this proxy made so far is later."""
        return self.cluster.clock._last_us << WRITER_BITS | self.cluster.clock.writer


class SimCluster:
    """All machines of a run."""

    def __init__(self, world: World, shape: Shape) -> None:
        self.world = world
        self.shape = shape
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="sim-", dir=memory))
        self.ring = ring_of(
            shape.machines, shape.zones, shape.part_power, drained=shape.machines - 1 if shape.moves else -1
        )
        """The newest."""
        self.net = Network(world)
        self.machines = [Machine(self, number) for number in range(shape.machines)]
        self._by_address = {machine.address: machine for machine in self.machines}
        for machine in self.machines:
            machine.disk.on_last_call = self._died_in_a_call
            machine.ring_file.write_bytes(ring_file.dumps(self.ring))
            machine.disk.noted = lambda kind: world.counts.update((f"fault: {kind}",))
        self.beside: list[Callable[[], Awaitable[None]]] = []
        """What runs beside the cluster: canaries."""
        self.proxies: dict[int, Proxy] = {}
        self.keepers: dict[int, Keeper] = {}

    def remove(self) -> None:
        """Throw all of it away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # ----------------------------------------------------------------------------------------------------------- starting

    async def start(self) -> None:
        """Make the devices and start everything."""
        for machine in self.machines:
            maker = Process(self.world, f"make {machine}", machine)
            Device.create(
                machine.device_path,
                machine.device_name,
                disk=SimDisk(machine.disk, maker),
                random_bytes=maker.random_bytes,
                filling=True,
            )
            maker.alive = False
        for machine in self.machines:
            self.start_all(machine)
        for function in self.beside:
            self.world.nursery.start_soon(function)
        while not all(
            replica.client.connected for proxy in self.proxies.values() for replica in proxy.cluster.replicas.values()
        ) or len(self.proxies) < len(self.shape.direct):
            await trio.sleep(0.1)

    def start_all(self, machine: Machine) -> None:
        """Start whatever does not run there."""
        for kind in self.kinds(machine):
            if kind not in machine.processes:
                self.start_process(machine, kind)

    def kinds(self, machine: Machine) -> list[str]:
        """The processes that belong on a machine."""
        return ["storage", "keeper", *(["proxy"] if machine.number < len(self.shape.direct) else [])]

    def start_process(self, machine: Machine, kind: str) -> None:
        """Start one; it must not run."""
        assert machine.up
        assert kind not in machine.processes
        process = Process(self.world, f"{machine}/{kind}", machine)
        machine.processes[kind] = process
        body = {"storage": self._storage, "keeper": self._keeper, "proxy": self._proxy}[kind]
        self.world.start(process, lambda: body(process))

    async def _storage(self, process: Process) -> None:
        machine = process.machine
        disk = SimDisk(machine.disk, process)
        files = RingFiles(machine.ring_file)
        device: Device | None = None
        try:
            device = machine.device = Device.open(
                machine.device_path,
                disk=disk,
                settings=self.shape.device_settings(),
                now_ms=self.world.monotonic_ms,
                random_bytes=process.random_bytes,
            )
            server = StorageServer(
                {machine.device_name: device},
                CLUSTER_KEY,
                random_bytes=process.random_bytes,
                hub=self.net.hub(process),
                rings=files.answer,
                ring_epoch=files.epoch,
            )
            await server.serve([self.net.listen(process, machine.address)])
        except (OSError, DeviceError) as error:
            # As the real service: it says why, ends, and is started again.
            self.world.note(f"{process} can't open its device: {error}")
            self.ended(process)
        finally:
            if machine.processes.get("storage") in (process, None):
                machine.device = None
            if device is not None:
                device.close() if process.alive else abandon(device, disk)

    async def _keeper(self, process: Process) -> None:
        keeper = Keeper(self, process)
        self.keepers[process.machine.number] = keeper
        await keeper.run()

    async def _proxy(self, process: Process) -> None:
        number = process.machine.number
        direct = self.shape.direct[number]
        follower = self.follower(process.machine, direct)
        cluster = Cluster(
            follower.rings if follower is not None else self.ring,
            CLUSTER_KEY,
            Clock(1 + number, process.machine.wall_us),
            address_of,
            self.direct_paths(process.machine, direct) if follower is None else follower.local_devices(),
            cautious_s=self.shape.cautious_s,
            **self.options(process),
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(cluster.run)
                if follower is not None:
                    sources = partial(sources_of, cluster.replicas)
                    await follower.catch_up((cluster,), sources)
                    nursery.start_soon(follower.run, (cluster,), sources)
                self.proxies[number] = Proxy(process, cluster, ObjectStore(cluster, process.machine.wall_us), nursery)
                await trio.sleep_forever()
        finally:
            proxy = self.proxies.get(number)
            if proxy is not None and proxy.process is process:
                del self.proxies[number]

    def direct_paths(self, machine: Machine, direct: bool) -> Mapping[int, Path]:
        """The devices that a process of a machine reads without asking their servers."""
        if self.shape.together:
            return {other.number: other.device_path for other in self.machines}
        return {machine.number: machine.device_path} if direct else {}

    def follower(self, machine: Machine, direct: bool) -> RingFollower | None:
        """What follows the rings for a process, where they change."""
        if not self.shape.moves:
            return None
        devices_dir = machine.path if direct else machine.path / "nothing here"
        node = machine.address.partition(":")[0]
        return RingFollower(SimpleNamespace(ring_file=machine.ring_file, node=node, devices_dir=devices_dir))

    def change_ring(self, machine: Machine, drained: int) -> None:
        """The operator puts a newer ring in force, at one machine."""
        shape = self.shape
        ring = ring_of(shape.machines, shape.zones, shape.part_power, self.ring.epoch + 1, drained)
        install(machine.ring_file, ring)
        self.ring = ring

    def options(self, process: Process) -> dict[str, Any]:
        """How a process is connected with the simulated world."""
        return {
            "hub": self.net.hub(process),
            "open_reader": lambda path: self.open_reader(process, path),
            "dial": self.net.dialler(process, self._by_address.__getitem__),
            "random": process.random.random,
            "random_bytes": process.random_bytes,
            "settings": CLIENT,
        }

    def open_reader(self, process: Process, path: Path) -> LocalReader:
        """A reader of a device on this machine (or, where all are together, of another's)."""
        owner = next(machine for machine in self.machines if machine.device_path == path)
        return LocalReader(
            path,
            disk=SimDisk(owner.disk, process),
            settings=self.shape.device_settings(),
            now_ms=self.world.monotonic_ms,
        )

    def running(self, machine: Machine) -> bool:
        """Whether all that belongs there runs and serves."""
        processes = machine.processes
        alive = all(kind in processes and processes[kind].alive for kind in self.kinds(machine))
        proxy = self.proxies.get(machine.number)
        serves = proxy is not None and proxy.process is processes.get("proxy")
        return alive and machine.device is not None and (serves or "proxy" not in self.kinds(machine))

    # ------------------------------------------------------------------------------------------------------------ ending

    def kill(self, process: Process, *, silent: bool = False) -> None:
        """kill -9; `silent`: the machine has lost power, and its kernel says nothing to anybody."""
        if process.alive:
            process.alive = False
            self.net.end_of(process, silent=silent)
            process.scope.cancel()

    def ended(self, process: Process) -> None:
        """A process has ended by itself: to be started again."""
        machine = process.machine
        if machine.processes.get("storage") is process:
            self.world.nursery.start_soon(self.restart, machine, "storage", 2.0)

    def _died_in_a_call(self, process: Process) -> None:
        self.world.note(f"{process} dies in a call to its disk")
        self.kill(process)
        machine = process.machine
        kind = process.name.partition("/")[2]
        self.world.nursery.start_soon(self.restart, machine, kind, 1.0)

    async def restart(self, machine: Machine, kind: str, after_s: float) -> None:
        """Start a dead process again, once nothing of it is left."""
        process = machine.processes.get(kind)
        if process is not None:
            await process.done.wait()
        await trio.sleep(after_s)
        if machine.up and machine.processes.get(kind) is process:
            machine.processes.pop(kind, None)
            self.start_process(machine, kind)

    async def power_off(self, machine: Machine, survival: str) -> None:
        """Cut a machine's power."""
        machine.up = False
        for process in machine.processes.values():
            self.kill(process, silent=True)
        with whole(f"power off {machine}"):
            for process in list(machine.processes.values()):
                await process.done.wait()
        machine.processes.clear()
        machine.disk.cut_power(survival)
        shutil.rmtree(machine.device_path / "recent", ignore_errors=True)

    def power_on(self, machine: Machine) -> None:
        """Start a machine again."""
        machine.up = True
        self.start_all(machine)
        self.net.look_again()


class Keeper:
    """What runs in a machine's keeper: all daemons, put together as ringstead.services.daemons.service does."""

    def __init__(self, cluster: SimCluster, process: Process) -> None:
        shape, machine = cluster.shape, process.machine
        wall_us = machine.wall_us
        local = {machine.number: machine.device_path}
        clock = Clock(100 + machine.number, wall_us)
        self.follower = follower = cluster.follower(machine, True)
        rings = follower.rings if follower is not None else (cluster.ring,)
        self.peers = Peers(
            rings[0], CLUSTER_KEY, address_of=address_of, local_devices=local, **cluster.options(process)
        )
        self.peers.adopt(rings, local)
        self.cluster = Cluster(rings, CLUSTER_KEY, clock, address_of, local, **cluster.options(process))
        store = ObjectStore(self.cluster, wall_us)
        self.replicator = Replicator(
            self.peers,
            clock,
            ReplicatorSettings(interval_s=shape.round_s, settle_s=shape.settle_s, move_s_min=20.0),
            now_us=wall_us,
            on_moved=lambda epoch: finish(machine.ring_file, epoch),
            move_orders=lambda: follower.generations.state.orders if follower is not None else MoveOrders(),
            shuffle=process.random.shuffle,
        )
        self.auditor = Auditor(
            self.peers,
            AuditorSettings(interval_s=120.0, unlisted_s=60.0),
            relist=partial(mend_row, store),
            now_us=wall_us,
        )
        self.updater = Updater(self.peers, clock, UpdaterSettings(interval_s=10.0, again_s=300.0))
        self.reclaimer = Reclaimer(
            self.peers, ReclaimSettings(age_s=shape.reclaim_age_s, interval_s=60.0), now_us=wall_us
        )
        self.expirer = Expirer(StoreQueue(store, wall_us), ExpirerSettings(interval_s=30.0), now_us=wall_us)
        self.reaper = Reaper(StoreGraves(store, wall_us), ReaperSettings(interval_s=60.0), now_us=wall_us)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.peers.run)
            await nursery.start(self.cluster.run)
            if self.follower is not None:
                sources = partial(sources_of, self.peers.by_id)
                await self.follower.catch_up((self.peers, self.cluster), sources)
                nursery.start_soon(self.follower.run, (self.peers, self.cluster), sources)
            for service in (self.replicator, self.auditor, self.updater, self.reclaimer, self.expirer, self.reaper):
                nursery.start_soon(service.run)


@contextmanager
def whole(what: str) -> Iterator[None]:
    """What is begun here is finished, even when the faults are being ended: a machine left half dead would never come up."""
    with trio.move_on_after(FINISH_S, shield=True) as scope:
        yield
    if scope.cancelled_caught:
        raise Violation(f"can't {what}: its processes don't end")


def address_of(device: RingDevice) -> str:
    """Where a device's server listens."""
    return f"{device.node}:{device.port}"


def abandon(device: Device, disk: SimDisk) -> None:
    """Take from a dead process what its kernel would: memory maps and descriptors, and nothing is written."""
    device._closed = True
    device._upkeep.cancel()
    parts = device._parts
    parts.let_go_of_index()
    parts.recent_env.close()
    parts.index_env.close()
    disk.close_all()
