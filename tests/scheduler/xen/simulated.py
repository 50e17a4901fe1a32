"""Simulated pools on real sockets, in the test's own trio run, and the driver at them.

The simulator's loop and the driver's worker threads share a process, so a test can look at the pool's rows, order
faults and kill hosts without a second language; between them is nothing but TCP.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from scheduler.hypervisor import DiskSpec, HostFacts, ImageFormat, NicSpec, PoolInventory, ServerSpec, SrFacts
from scheduler.xen.driver import XenPool
from scheduler.xen.settings import Address, PoolSettings
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.disks import Disks
from scheduler.xen.simulator.latency import INSTANT, Latencies
from scheduler.xen.simulator.layout import PoolPlan, build
from scheduler.xen.simulator.pool import Account, Pool
from scheduler.xen.simulator.server import Server
from scheduler.xen.simulator.site import Site

CLUSTER = "c1"
MIB, GIB = 1 << 20, 1 << 30


def free_port(addresses: list[str]) -> int:
    """A port that is free at all of these addresses."""
    while True:
        with socket.socket() as first:
            first.bind((addresses[0], 0))
            port = int(first.getsockname()[1])
            try:
                for address in addresses[1:]:
                    with socket.socket() as other:
                        other.bind((address, port))
            except OSError:
                continue
        return port


@dataclass
class Simulation:
    """Pools that are being served."""

    folder: Path
    site: Site
    server: Server
    port: int
    scheme: str
    settings: dict[str, Any] = field(default_factory=dict)

    def pool(self, index: int = 0) -> Pool:
        """The simulator's own view of a pool."""
        return self.site.pools[index]

    def rows(self, class_name: str, index: int = 0) -> list[Row]:
        """The objects of a class."""
        return list(self.pool(index).database.rows(class_name))

    def servers(self, index: int = 0) -> list[Row]:
        """All VMs but control domains, snapshots and the templates that a pool brings."""
        return [
            vm
            for vm in self.rows("VM", index)
            if not vm["is_control_domain"] and not (vm["is_a_template"] and not vm["is_a_snapshot"] and not mine(vm))
        ]

    def disks(self, index: int = 0) -> list[Row]:
        """All VDIs but the ISO library's and those of templates."""
        return [vdi for vdi in self.rows("VDI", index) if not vdi["is_tools_iso"]]

    def host(self, number: int, index: int = 0) -> Row:
        """A host, the master being number 0."""
        return self.rows("host", index)[number]

    def fault(self, method: str, index: int = 0, **what: Any) -> None:
        """Order a fault of a pool."""
        self.pool(index).faults.order({"method": method, **what})

    def faults_left(self, index: int = 0) -> int:
        """How many of the faults that were ordered have not been met yet."""
        return len(self.pool(index).faults.rules)

    def settle(self) -> None:
        """Tell pollers of changes that a test made by hand."""
        self.server.settle()

    def xen_pool(self, index: int = 0, **changes: Any) -> XenPool:
        """A driver for a pool, as one controller has it."""
        return XenPool(self.pool_settings(index, **changes), CLUSTER)

    def pool_settings(self, index: int = 0, **changes: Any) -> PoolSettings:
        """The settings of a pool."""
        address = Address(self.scheme, str(self.pool(index).master["address"]), self.port)
        given: dict[str, Any] = {
            "name": f"p{index + 1}",
            "addresses": (address,),
            "username": "root",
            "password": "opensesame",
            "call_timeout_s": 20.0,
            "connect_timeout_s": 2.0,
            **self.settings,
            **changes,
        }
        return PoolSettings(**given)


def mine(vm: Row) -> bool:
    """Whether a VM is, or is becoming, a server of ours."""
    return "ringstead-cluster" in vm["other_config"] or str(vm["name_label"]).startswith("ringstead ")


@asynccontextmanager
async def simulation(
    folder: Path,
    *,
    pools: int = 1,
    hosts: int = 2,
    latencies: Latencies = INSTANT,
    shared_bytes: int = 64 * GIB,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[Simulation]:
    """Simulated pools, served until the block ends."""
    made: list[Pool] = []
    names = [[f"127.0.{10 + pool}.{1 + host}" for host in range(hosts)] for pool in range(pools)]
    port = free_port([address for pool in names for address in pool])
    scheme = "http" if context is None else "https"
    for index, addresses in enumerate(names):
        pool = Pool(
            f"pool{index + 1}",
            clock=time.time,
            disks=Disks(folder / "disks"),
            seed=f"seed {index}",
            latencies=latencies,
            account=Account("root", "opensesame"),
        )
        build(pool, PoolPlan(pool.name, tuple(addresses), shared_bytes=shared_bytes))
        made.append(pool)
    site = Site(made)
    server = Server(site)
    listeners = []
    for pool in made:
        for host in pool.database.rows("host"):
            pool.urls[host.ref] = f"{scheme}://{host['address']}:{port}"
            [listener] = await trio.open_tcp_listeners(port, host=host["address"])
            listeners.append((pool, host, listener))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run, listeners, context)
        yield Simulation(folder, site, server, port, scheme)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def driving(pool: XenPool) -> AsyncIterator[XenPool]:
    """A driver that follows its pool, until the block ends."""
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        try:
            yield pool
        finally:
            nursery.cancel_scope.cancel()
    await pool.close()


def local_sr(inventory: PoolInventory, host: HostFacts) -> SrFacts:
    """The SR on a host's own disk."""
    return next(sr for sr in inventory.srs if not sr.shared and sr.hosts == {host.uuid})


def shared_sr(inventory: PoolInventory) -> SrFacts:
    """The SR that all hosts reach."""
    return next(sr for sr in inventory.srs if sr.shared)


def sizes(rows: Iterator[Row]) -> list[int]:
    """Of VDIs."""
    return [int(row["virtual_size"]) for row in rows]


@dataclass(frozen=True)
class Image:
    """An image in memory, as an `ImageSource`."""

    content: bytes
    format: ImageFormat = "raw"
    piece_bytes: int = 256 << 10
    opened: list[int] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return len(self.content)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """Its bytes."""
        self.opened.append(1)
        yield self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.content), self.piece_bytes):
            await trio.lowlevel.checkpoint()
            yield self.content[at : at + self.piece_bytes]


def server_spec(inventory: PoolInventory, server_id: str = "s1", *, host: int = 0, **changes: Any) -> ServerSpec:
    """A small server with a root disk on its host's own SR."""
    root = DiskSpec(f"{server_id}-root", "root", 64 * MIB, local_sr(inventory, inventory.hosts[host]).uuid)
    given: dict[str, Any] = {
        "server_id": server_id,
        "name": f"server {server_id}",
        "build": 1,
        "memory_bytes": 256 * MIB,
        "vcpu_count": 2,
        "root": root,
        "nics": (NicSpec(inventory.networks[0].uuid, "02:00:00:00:00:01"),),
        **changes,
    }
    return ServerSpec(**given)


def content_of(sim: Simulation, vdi: Row) -> bytes:
    """The bytes of a simulated disk."""
    return (sim.folder / "disks" / f"{vdi.ref.removeprefix('OpaqueRef:')}.raw").read_bytes()
