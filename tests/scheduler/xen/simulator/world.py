"""Pools with a clock that tests advance: calls as a client makes them, without a server between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scheduler.xen.simulator import layout
from scheduler.xen.simulator.allowed import refresh
from scheduler.xen.simulator.calls.event import Pending
from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.disks import Disks
from scheduler.xen.simulator.dispatch import Operation, serve
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.latency import Latencies
from scheduler.xen.simulator.pool import Account, Pool
from scheduler.xen.simulator.site import Site

GIB = 1 << 30
MIB = 1 << 20


class World:
    """Some pools and the time in them."""

    def __init__(
        self,
        folder: Path,
        *,
        pools: int = 1,
        hosts: int = 3,
        host: layout.HostPlan | None = None,
        latency: float = 0.0,
        shared_bytes: int = 2048 * GIB,
    ) -> None:
        self.now = 1_800_000_000.0
        self.disks = Disks(folder / "disks")
        made = []
        for index in range(pools):
            pool = Pool(
                f"pool{index + 1}",
                clock=lambda: self.now,
                disks=self.disks,
                seed=f"seed/{index}",
                latencies=Latencies(factor=latency),
                account=Account(),
            )
            addresses = tuple(f"127.0.{index}.{number + 1}" for number in range(hosts))
            plan = layout.PoolPlan(pool.name, addresses, host or layout.HostPlan(), shared_bytes)
            layout.build(pool, plan)
            refresh(pool)
            made.append(pool)
        self.site = Site(made)
        self.clients = [Client(self, pool) for pool in made]

    @property
    def one(self) -> Client:
        """A client of the first pool."""
        return self.clients[0]

    def advance(self, seconds: float) -> None:
        """Let time pass, and all that becomes due in it happen."""
        self.now += seconds
        self.site.run_due(self.now)

    def finish(self) -> None:
        """Let time pass until nothing is on its way any more."""
        for _ in range(10_000):
            due = self.site.next_due()
            if due is None:
                return
            self.advance(max(0.0, due - self.now))
        raise AssertionError("operations without end")


class Client:
    """A session with a pool: `client("VM.start", vm, False, False)`."""

    def __init__(self, world: World, pool: Pool) -> None:
        self.world = world
        self.pool = pool
        self.session = serve(pool, pool.master, "session.login_with_password", ["root", "root"], world.site)

    def raw(self, method: str, *arguments: Any, host: Row | None = None) -> Any:
        """What `serve` answers: a result, an `Operation`, or a `Pending` poll."""
        return serve(self.pool, host or self.pool.master, method, [self.session, *arguments], self.world.site)

    def __call__(self, method: str, *arguments: Any) -> Any:
        """The result of a call, time advanced until there is one. Raises Failure."""
        answer = self.raw(method, *arguments)
        if isinstance(answer, Operation):
            for _ in range(10_000):
                if answer.done:
                    break
                due = self.world.site.next_due()
                assert due is not None
                self.world.advance(max(0.0, due - self.world.now))
            return answer.answer()
        return answer.empty if isinstance(answer, Pending) else answer

    def failure(self, method: str, *arguments: Any) -> list[str]:
        """The failure that a call ends in, as its description; empty when it goes well."""
        try:
            self(method, *arguments)
        except Failure as failure:
            return failure.description
        return []

    def get(self, cls: str, ref: str, field: str) -> Any:
        """A field of a record."""
        return self(f"{cls}.get_{field}", ref)

    def hosts(self) -> list[str]:
        """The hosts, the master first."""
        refs: list[str] = self("host.get_all")
        return refs

    def network(self) -> str:
        """The management network."""
        refs: list[str] = self("network.get_all")
        return refs[0]

    def local_sr(self, host: str) -> str:
        """The SR on a host's own disk."""
        for sr in self.pool.database.rows("SR"):
            pbds = self.pool.database.all("PBD", sr["PBDs"])
            if not sr["shared"] and [pbd["host"] for pbd in pbds] == [host]:
                return sr.ref
        raise AssertionError("no local SR")

    def shared_sr(self) -> str:
        """The SR that all hosts share."""
        refs: list[str] = self("SR.get_by_name_label", "Shared storage")
        return refs[0]

    def vdi(self, sr: str, size_bytes: int = 64 * MIB, **fields: Any) -> str:
        """A new VDI."""
        record = {"SR": sr, "name_label": "disk", "virtual_size": str(size_bytes), "type": "user", **fields}
        ref: str = self("VDI.create", record)
        return ref

    def vbd(self, vm: str, vdi: str, **fields: Any) -> str:
        """A new VBD for a VDI."""
        record = {"VM": vm, "VDI": vdi, "userdevice": "autodetect", "mode": "RW", "type": "Disk", **fields}
        ref: str = self("VBD.create", record)
        return ref

    def vm(self, name: str = "vm", *, sr: str | None = None, memory_bytes: int = GIB) -> str:
        """A halted VM with one disk and one VIF."""
        template = self("VM.get_by_name_label", "Other install media")[0]
        vm: str = self("VM.clone", template, name)
        self("VM.provision", vm)
        self("VM.set_memory_limits", vm, memory_bytes // 4, memory_bytes, memory_bytes, memory_bytes)
        self.vbd(vm, self.vdi(sr or self.shared_sr()))
        self("VIF.create", {"VM": vm, "network": self.network(), "device": "0"})
        return vm

    def disk_of(self, vm: str) -> str:
        """The VDI of a VM's first disk."""
        vbds = self.get("VM", vm, "VBDs")
        vdi: str = self.get("VBD", vbds[0], "VDI")
        return vdi

    def write(self, vdi: str, start: int, data: bytes) -> None:
        """Put bytes on a disk."""
        with self.world.disks.open(vdi.removeprefix("OpaqueRef:"), write=True) as disk:
            disk.write(start, data)

    def read(self, vdi: str, start: int, length: int) -> bytes:
        """Bytes of a disk."""
        with self.world.disks.open(vdi.removeprefix("OpaqueRef:")) as disk:
            return disk.read(start, length)
