"""A small cloud in memory for tests of the lifecycle: pools, a database, claims, and as many controllers as wanted.

Everything runs in one thread on trio's mock clock, so a history is the same whenever it is run. Faults are given as a
function that is asked at every step of every call to a pool.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import trio
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from scheduler.claims.claim import Claims
from scheduler.claims.memory import MemoryClaims
from scheduler.hypervisor import ImageFormat, NetworkFacts
from scheduler.hypervisor_memory import MemoryHypervisor, no_fault
from scheduler.lifecycle.chooser import RingChooser, TrackedClaims
from scheduler.lifecycle.controller import Controller, ControllerSettings
from scheduler.lifecycle.database import Database
from scheduler.lifecycle.executor import Executor, ExecutorSettings
from scheduler.lifecycle.operations import Desk, NewServer, create_server
from scheduler.lifecycle.pools import PoolLink, Pools
from scheduler.lifecycle.refresh import Refresher
from scheduler.lifecycle.tools import Tools
from scheduler.lifecycle.volume_operations import create_flavor, register_image
from scheduler.metadata import METADATA
from scheduler.placement.settings import PlacementSettings
from scheduler.pool_memory import MemoryPool
from scheduler.records import store
from scheduler.records.types import ImageRecord, PoolRecord, ServerRecord, TaskRecord, VolumeRecord

T = TypeVar("T")
Step = Callable[[str, str, str], Awaitable[None]]

GIB = 1 << 30
MIB = 1 << 20
EPOCH_S = 1_700_000_000.0


@dataclass(frozen=True)
class Bytes:
    """An image in memory."""

    content: bytes
    format: ImageFormat = "raw"

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return len(self.content)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """In one piece."""

        async def pieces() -> AsyncIterator[bytes]:
            yield self.content

        yield pieces()


@dataclass
class Shelf:
    """An image library in memory."""

    objects: dict[str, bytes] = field(default_factory=dict)

    def source(self, image: ImageRecord) -> Bytes:
        """The bytes of an image."""
        return Bytes(self.objects[image.object_name], "vhd" if image.format == "vhd" else "raw")

    async def save(self, object_name: str, pieces: AsyncIterator[bytes]) -> tuple[int, str]:
        """Keep it."""
        self.objects[object_name] = b"".join([piece async for piece in pieces])
        return len(self.objects[object_name]), "md5"

    async def delete(self, object_name: str) -> None:
        """Forget it."""
        self.objects.pop(object_name, None)


def memory_engine() -> Engine:
    """A database in memory with all tables. It has one connection: transactions must not nest."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    METADATA.create_all(engine)
    return engine


class SteppedDatabase(Database):
    """Transactions in place, each between two steps at which a test may let the controller die."""

    def __init__(self, engine: Engine, step: Step) -> None:
        super().__init__(engine, in_threads=False)
        self._step = step

    async def block(self, work: Callable[[], T]) -> T:
        """As `Database.block`."""
        await self._step("database", "before", "")
        answer = work()
        await self._step("database", "after", "")
        return answer


@dataclass
class World:
    """Two pools (zones r1z1, r1z2) of `hosts` hosts with `memory_gib` each; a local SR a host and a shared one a pool."""

    hosts: int = 2
    memory_gib: int = 4
    sr_gib: int = 40
    zones: int = 2
    step: Step = no_fault
    engine: Engine = field(default_factory=memory_engine)
    claims: Claims = field(default_factory=lambda: MemoryClaims(lambda: EPOCH_S))
    shelf: Shelf = field(default_factory=Shelf)
    pools: dict[str, MemoryPool] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    ids: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for zone in range(1, self.zones + 1):
            pool = self.pools[f"p{zone}"] = MemoryPool(f"p{zone}")
            names = [f"p{zone}h{number}" for number in range(1, self.hosts + 1)]
            for name in names:
                pool.add_host(name, self.memory_gib * GIB, 4)
                pool.add_sr(f"{name}-local", self.sr_gib * GIB, frozenset({name}), shared=False)
            pool.add_sr(f"p{zone}-shared", self.sr_gib * GIB, frozenset(names), shared=True)
            pool.networks[f"net{zone}"] = NetworkFacts(f"net{zone}", "lan", "xenbr0", frozenset(names))
            record = PoolRecord(f"p{zone}", f"p{zone}", "memory", "root", "off", 1, zone, EPOCH_S)
            with self.engine.begin() as connection:
                store.add(connection, record)
        desk_image = b"an image"
        self.shelf.objects["image-1"] = desk_image
        self.ask(lambda desk: create_flavor(desk, "small", 512, 1, GIB))
        self.ask(lambda desk: register_image(desk, "debian", "raw", len(desk_image), GIB, "image-1", "md5"))

    def now_s(self) -> float:
        """The time of day, by the mock clock where there is one."""
        try:
            return EPOCH_S + trio.current_time()
        except RuntimeError:
            return EPOCH_S

    def new_id(self) -> str:
        """Ids that are the same in every run."""
        return f"id-{next(self.numbers):06d}"

    def ask(self, work: Callable[[Desk], T]) -> T:
        """A request, carried out at once."""
        zones = frozenset((1, zone) for zone in range(1, self.zones + 1))
        with self.engine.begin() as connection:
            return work(Desk(connection, self.now_s(), self.new_id, zones))

    def create(self, name: str, **wanted: object) -> tuple[ServerRecord, TaskRecord]:
        """A server of the small flavor from the image."""
        defaults: dict[str, object] = {"project": "demo", "flavor": "small", "image": "debian"}
        return self.ask(lambda desk: create_server(desk, NewServer(name, **{**defaults, **wanted})))  # type: ignore[arg-type]

    def tools(self, step: Step | None = None) -> tuple[Tools, RingChooser]:
        """What a controller of its own would have."""
        chooser = RingChooser(self.claims, trio.current_time, settings=PlacementSettings(choice_count=1))
        links = {
            record.id: PoolLink(
                record, MemoryHypervisor(self.pools[record.id], step=step or self.step, peers=self.pools)
            )
            for record in self.records(PoolRecord)
        }
        pools = Pools(lambda record: links[record.id].hypervisor, links)
        claims = TrackedClaims(self.claims, chooser.apply)
        database = SteppedDatabase(self.engine, step or self.step)
        return Tools(database, claims, pools, chooser, self.shelf, self.now_s, self.new_id), chooser

    async def hands(self, owner: str = "one", step: Step | None = None, lease_s: float = 20.0) -> Executor:
        """An executor that has looked at all pools."""
        tools, chooser = self.tools(step)
        await Refresher(tools.database, tools.claims, tools.pools, chooser).look()
        return Executor(tools, owner, ExecutorSettings(lease_s=lease_s))

    def controller(self, name: str = "one", step: Step | None = None, lease_s: float = 20.0) -> Controller:
        """A whole controller."""
        tools, chooser = self.tools(step)
        tools.pools.links.clear()
        return Controller(
            name,
            tools,
            chooser,
            lambda record: MemoryHypervisor(self.pools[record.id], step=step or self.step, peers=self.pools),
            ControllerSettings(executor=ExecutorSettings(lease_s=lease_s)),
        )

    def records(self, kind: type[T]) -> list[T]:
        """All records of a kind."""
        with self.engine.begin() as connection:
            return store.all_of(connection, kind)

    def server(self, name: str) -> ServerRecord:
        """The server of that name."""
        with self.engine.begin() as connection:
            return store.named(connection, ServerRecord, name)

    def volume(self, name: str) -> VolumeRecord:
        """The volume of that name."""
        with self.engine.begin() as connection:
            return store.named(connection, VolumeRecord, name)

    def task(self, number: int) -> TaskRecord:
        """The task of that number."""
        with self.engine.begin() as connection:
            found = store.find(connection, TaskRecord, number)
        assert found is not None
        return found

    def vms(self, server_id: str) -> list[str]:
        """Pools that have a VM of the server, once for each."""
        return [
            pool.uuid
            for pool in self.pools.values()
            for vm in pool.vms.values()
            if vm.server_id == server_id and not vm.snapshot_id
        ]


async def work_until_closed(executor: Executor, world: World, task: TaskRecord, within_s: float = 600.0) -> TaskRecord:
    """Let the executor work until that task has ended."""
    with trio.fail_after(within_s):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(executor.run)
            while world.task(task.id).state.value == "open":
                await trio.sleep(0.2)
            nursery.cancel_scope.cancel()
    return world.task(task.id)
