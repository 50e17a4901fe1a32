"""A pool in memory: the hypervisor's second implementation, deterministic, that can fail at every step.

Problem: the lifecycle must be right whatever fails and whenever a controller dies, and a test that shows it needs thousands
of histories in seconds, each with faults at chosen instants. No real pool, nor a simulator behind sockets, can be stepped
like that.

Idea: `MemoryPool` (`scheduler.pool_memory`) is the pool: what survives controllers. `MemoryHypervisor` is one controller's
connection to it. Between any two changes of the pool the connection calls `step(verb, step)`, which is where a test
raises: a HypervisorError is a failure of the pool (and is undone as the interface promises), anything else is the death
of the caller, after which nothing is undone. The step called "answer" comes after the change took effect. Each step is a
checkpoint, so that two controllers interleave there, and nowhere else.

Invariant: whatever a connection does, the pool's own invariants hold (`scheduler.pool_memory`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Final, TypeVar

import trio

from scheduler.hypervisor import (
    AttachedDisk,
    DiskFacts,
    DiskSpec,
    Gone,
    HostFacts,
    HypervisorError,
    ImageFormat,
    Migration,
    MigrationTicket,
    NextHost,
    NextSr,
    PoolInventory,
    PowerAction,
    PowerState,
    Progress,
    Refused,
    ServerSpec,
    Superseded,
    TryAgain,
    Unreachable,
    VmFacts,
    WrongState,
)
from scheduler.pool_memory import MemoryPool, check_arrival, move_vm

T = TypeVar("T")
Step = Callable[[str, str, str], Awaitable[None]]
"""(verb, step, what it is about): raises to make that step fail."""

STORAGE_MIGRATIONS_MAX: Final = 3
_TARGETS: Final = {
    PowerAction.START: PowerState.RUNNING,
    PowerAction.SHUT_DOWN: PowerState.HALTED,
    PowerAction.CUT: PowerState.HALTED,
    PowerAction.REBOOT: PowerState.RUNNING,
    PowerAction.RESET: PowerState.RUNNING,
    PowerAction.PAUSE: PowerState.PAUSED,
    PowerAction.UNPAUSE: PowerState.RUNNING,
    PowerAction.SUSPEND: PowerState.SUSPENDED,
    PowerAction.RESUME: PowerState.RUNNING,
}
_FROM: Final = {
    PowerAction.START: {PowerState.HALTED},
    PowerAction.SHUT_DOWN: {PowerState.RUNNING},
    PowerAction.CUT: {PowerState.RUNNING, PowerState.PAUSED, PowerState.SUSPENDED},
    PowerAction.REBOOT: {PowerState.RUNNING},
    PowerAction.RESET: {PowerState.RUNNING, PowerState.PAUSED},
    PowerAction.PAUSE: {PowerState.RUNNING},
    PowerAction.UNPAUSE: {PowerState.PAUSED},
    PowerAction.SUSPEND: {PowerState.RUNNING},
    PowerAction.RESUME: {PowerState.SUSPENDED},
}


async def no_fault(verb: str, step: str, subject: str) -> None:
    """The step that never fails."""
    await trio.lowlevel.checkpoint()


class MemoryHypervisor:
    """One controller's connection to a MemoryPool. `peers`: pools by uuid that servers can be sent to."""

    def __init__(self, pool: MemoryPool, *, step: Step = no_fault, peers: dict[str, MemoryPool] | None = None) -> None:
        self._pool = pool
        self._step = step
        self._peers = peers if peers is not None else {pool.uuid: pool}

    @property
    def name(self) -> str:
        """The pool's uuid serves as its name."""
        return self._pool.uuid

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The picture is the pool itself."""
        task_status.started()
        await trio.sleep_forever()

    async def close(self) -> None:
        """Nothing to end."""
        await trio.lowlevel.checkpoint()

    # ------------------------------------------------------------------------------------------------------------- looking

    async def inventory(self, *, fresh: bool = False) -> PoolInventory:
        """All that the pool holds."""
        await self._begin("inventory", self._pool.uuid)
        return self._pool.inventory()

    async def find_server(self, server_id: str) -> VmFacts | None:
        """The VM of that server."""
        await self._begin("find_server", server_id)
        return self._find(server_id)

    async def console_url(self, server_id: str) -> str:
        """A URL that leads nowhere."""
        await self._begin("console_url", server_id)
        vm = self._need(server_id)
        if vm.power is not PowerState.RUNNING:
            raise WrongState(f"server {server_id} is {vm.power.value}: no console")
        return f"https://{self._pool.hosts[vm.host].address}/console?uuid={vm.uuid}"

    # ------------------------------------------------------------------------------------------------------------ building

    async def create_server(self, spec: ServerSpec, host: str, progress: Progress = lambda done: None) -> VmFacts:
        """In the steps vm, root, disks, nics, finish, answer."""
        verb, pool = "create_server", self._pool
        await self._begin(verb, spec.server_id)
        self._remove_older(spec)
        if (present := self._find(spec.server_id)) is not None:
            return present
        if spec.template and spec.template not in pool.templates:
            raise Refused(f"there is no template {spec.template!r}")
        if host not in pool.hosts or not pool.hosts[host].live:
            raise NextHost(f"host {host} does not answer", "HOST_OFFLINE")
        undo: list[Callable[[], object]] = []
        with self._undoing(undo):
            vm = VmFacts(
                pool.new_uuid("vm"),
                spec.name,
                PowerState.HALTED,
                "",
                spec.memory_bytes,
                spec.vcpu_count,
                spec.server_id,
                build=spec.build,
                unfinished=True,
            )
            pool.vms[vm.uuid] = vm
            undo.append(lambda: pool.vms.pop(vm.uuid, None))
            await self._step(verb, "vm", spec.server_id)
            made = []
            for number, disk_spec in enumerate((spec.root, *spec.disks)):
                disk = await self._make_disk(disk_spec, spec.server_id, host, undo)
                made.append(AttachedDisk(disk.uuid, f"xvd{'abcdefgh'[number]}", False, disk_spec.disk_id))
                pool.disks[disk.uuid] = replace(disk, unfinished=False)
                pool.vms[vm.uuid] = replace(pool.vms[vm.uuid], disks=tuple(made))
                progress((number + 1) / (1 + len(spec.disks)))
                await self._step(verb, "root" if number == 0 else "disks", spec.server_id)
            for nic in spec.nics:
                if nic.network not in pool.networks:
                    raise Refused(f"there is no network {nic.network}")
                await self._step(verb, "nics", spec.server_id)
            self._remove_older(spec)
            if vm.uuid not in pool.vms:
                raise Superseded(f"server {spec.server_id} was taken over by a later build")
            pool.vms[vm.uuid] = replace(pool.vms[vm.uuid], unfinished=False)
            await self._step(verb, "finish", spec.server_id)
        return await self._answer(verb, spec.server_id, pool.vms[vm.uuid])

    async def destroy_server(self, server_id: str) -> None:
        """In the steps cut, detach, snapshots, vm, disks, answer."""
        verb, pool = "destroy_server", self._pool
        await self._begin(verb, server_id)
        for vm in [vm for vm in pool.vms.values() if vm.server_id == server_id]:
            if vm.uuid in pool.vms:
                pool.vms[vm.uuid] = replace(pool.vms[vm.uuid], power=PowerState.HALTED, host="")
            await self._step(verb, "cut", server_id)
            pool.vms.pop(vm.uuid, None)
            await self._step(verb, "vm", server_id)
        for disk in [disk for disk in pool.disks.values() if disk.server_id == server_id]:
            pool.disks.pop(disk.uuid, None)
            await self._step(verb, "disks", server_id)
        await self._answer(verb, server_id, None)

    async def remove_vm(self, uuid: str) -> None:
        """At once."""
        await self._begin("remove_vm", uuid)
        vm = self._pool.vms.get(uuid)
        if vm is not None:
            if not vm.server_id:
                raise Refused(f"VM {uuid} is not ours")
            if vm.power is not PowerState.HALTED:
                raise WrongState(f"VM {uuid} is {vm.power.value}")
            for attached in vm.disks:
                if attached.disk in self._pool.disks and self._pool.disks[attached.disk].server_id:
                    del self._pool.disks[attached.disk]
            del self._pool.vms[uuid]
        await self._answer("remove_vm", uuid, None)

    async def remove_disk(self, uuid: str) -> None:
        """At once."""
        await self._begin("remove_disk", uuid)
        disk = self._pool.disks.get(uuid)
        if disk is not None:
            if not disk.disk_id:
                raise Refused(f"disk {uuid} is not ours")
            if self._pool.holders(uuid):
                raise WrongState(f"disk {uuid} is attached")
            del self._pool.disks[uuid]
        await self._answer("remove_disk", uuid, None)

    async def power(self, server_id: str, action: PowerAction, host: str = "") -> VmFacts:
        """In the steps begin, answer."""
        await self._begin("power", server_id)
        vm = self._need(server_id)
        target = _TARGETS[action]
        starts = action in (PowerAction.START, PowerAction.RESUME)
        if vm.power is target and action not in (PowerAction.REBOOT, PowerAction.RESET):
            return vm
        if vm.power not in _FROM[action]:
            raise WrongState(f"server {server_id} is {vm.power.value}: cannot {action.value} it", "VM_BAD_POWER_STATE")
        if starts:
            self._check_host(host, vm)
        elif vm.host and not self._pool.hosts[vm.host].live:
            raise NextHost(f"host {vm.host} does not answer", "HOST_OFFLINE")
        place = host if starts else vm.host if target is not PowerState.HALTED else ""
        if target is PowerState.SUSPENDED:
            place = ""
        disks = tuple(replace(disk, plugged=target is not PowerState.HALTED) for disk in vm.disks)
        self._pool.vms[vm.uuid] = replace(vm, power=target, host=place, disks=disks)
        return await self._answer("power", server_id, self._pool.vms[vm.uuid])

    async def set_name(self, server_id: str, name: str) -> None:
        """At once."""
        await self._begin("set_name", server_id)
        vm = self._need(server_id)
        self._pool.vms[vm.uuid] = replace(vm, name=name)

    # ----------------------------------------------------------------------------------------------------------- snapshots

    async def snapshot_server(self, server_id: str, snapshot_id: str, name: str) -> None:
        """At once, as a pool does."""
        verb, pool = "snapshot_server", self._pool
        await self._begin(verb, server_id)
        vm = self._need(server_id)
        if any(other.snapshot_id == snapshot_id for other in pool.vms.values()):
            return
        kept = []
        for attached in vm.disks:
            copy = self._copy_disk(pool.disks[attached.disk], f"{snapshot_id}-{attached.disk_id[:20]}", server_id)
            kept.append(replace(attached, disk=copy.uuid, plugged=False))
        uuid = pool.new_uuid("snap")
        halted = replace(vm, uuid=uuid, name=name, power=PowerState.HALTED, host="", disks=tuple(kept))
        pool.vms[uuid] = replace(halted, snapshot_id=snapshot_id)
        await self._answer(verb, server_id, None)

    async def revert_server(self, server_id: str, snapshot_id: str) -> None:
        """Contents go back; sizes too."""
        await self._begin("revert_server", server_id)
        pool, vm = self._pool, self._need(server_id)
        snapshot = next((s for s in pool.vms.values() if s.snapshot_id == snapshot_id), None)
        if snapshot is None:
            raise Gone(f"there is no snapshot {snapshot_id}")
        for kept in snapshot.disks:
            now = next((disk for disk in vm.disks if disk.disk_id == kept.disk_id), None)
            if now is not None and kept.disk in pool.contents:
                pool.contents[now.disk] = pool.contents[kept.disk]
        pool.vms[vm.uuid] = replace(vm, power=PowerState.HALTED, host="")
        await self._answer("revert_server", server_id, None)

    async def delete_server_snapshot(self, snapshot_id: str) -> None:
        """With its disks."""
        await self._begin("delete_server_snapshot", snapshot_id)
        for vm in [vm for vm in self._pool.vms.values() if vm.snapshot_id == snapshot_id]:
            for attached in vm.disks:
                self._pool.disks.pop(attached.disk, None)
            del self._pool.vms[vm.uuid]
        await self._answer("delete_server_snapshot", snapshot_id, None)

    # --------------------------------------------------------------------------------------------------------------- disks

    async def create_disk(self, spec: DiskSpec, progress: Progress = lambda done: None) -> DiskFacts:
        """In the steps made, answer."""
        await self._begin("create_disk", spec.disk_id)
        present = self._pool.disk_of(spec.disk_id)
        if present is not None and not present.unfinished:
            return present
        if present is not None:
            del self._pool.disks[present.uuid]
        undo: list[Callable[[], object]] = []
        with self._undoing(undo):
            disk = await self._make_disk(spec, "", "", undo)
            await self._step("create_disk", "made", spec.disk_id)
            self._pool.disks[disk.uuid] = replace(disk, unfinished=False)
        return await self._answer("create_disk", spec.disk_id, self._pool.disks[disk.uuid])

    async def resize_disk(self, disk_id: str, size_bytes: int) -> DiskFacts:
        """Grow it."""
        await self._begin("resize_disk", disk_id)
        disk = self._need_disk(disk_id)
        if any(vm.power is not PowerState.HALTED for vm in self._pool.holders(disk.uuid)):
            raise WrongState(f"disk {disk_id} is in use")
        if size_bytes < disk.size_bytes:
            raise Refused(f"disk {disk_id} has {disk.size_bytes} bytes; it cannot shrink to {size_bytes}")
        self._check_sr(disk.sr, size_bytes - disk.size_bytes, "")
        self._pool.disks[disk.uuid] = replace(disk, size_bytes=size_bytes)
        return await self._answer("resize_disk", disk_id, self._pool.disks[disk.uuid])

    async def snapshot_disk(self, disk_id: str, snapshot_id: str, name: str) -> DiskFacts:
        """A copy."""
        await self._begin("snapshot_disk", disk_id)
        present = self._pool.disk_of(snapshot_id)
        if present is None:
            present = self._copy_disk(self._need_disk(disk_id), snapshot_id, "")
        return await self._answer("snapshot_disk", disk_id, present)

    async def delete_disk(self, disk_id: str) -> None:
        """Content when it is gone."""
        await self._begin("delete_disk", disk_id)
        disk = self._pool.disk_of(disk_id)
        if disk is not None:
            if self._pool.holders(disk.uuid):
                raise WrongState(f"disk {disk_id} is attached", "VDI_IN_USE")
            del self._pool.disks[disk.uuid]
        await self._answer("delete_disk", disk_id, None)

    async def attach_disk(self, server_id: str, disk_id: str, *, read_only: bool = False) -> AttachedDisk:
        """Plugged if the server runs."""
        await self._begin("attach_disk", server_id)
        vm, disk = self._need(server_id), self._need_disk(disk_id)
        for attached in vm.disks:
            if attached.disk == disk.uuid:
                return attached
        if self._pool.holders(disk.uuid):
            raise WrongState(f"disk {disk_id} is attached to another server", "VDI_IN_USE")
        if vm.host and vm.host not in self._pool.srs[disk.sr].hosts:
            raise NextSr(f"host {vm.host} does not reach SR {disk.sr}")
        taken = {attached.device for attached in vm.disks}
        device = next(name for name in (f"xvd{letter}" for letter in "abcdefghijklmnop") if name not in taken)
        made = AttachedDisk(disk.uuid, device, vm.power is PowerState.RUNNING, disk_id)
        self._pool.vms[vm.uuid] = replace(vm, disks=(*vm.disks, made))
        return await self._answer("attach_disk", server_id, made)

    async def detach_disk(self, server_id: str, disk_id: str) -> None:
        """Content when it is out."""
        await self._begin("detach_disk", server_id)
        vm = self._find(server_id)
        if vm is not None:
            self._pool.vms[vm.uuid] = replace(vm, disks=tuple(d for d in vm.disks if d.disk_id != disk_id))
        await self._answer("detach_disk", server_id, None)

    @asynccontextmanager
    async def export_disk(self, disk_id: str, image_format: ImageFormat) -> AsyncIterator[AsyncIterator[bytes]]:
        """What `contents` has, or one block of zeros."""
        await self._begin("export_disk", disk_id)
        disk = self._need_disk(disk_id)
        if any(vm.power is PowerState.RUNNING for vm in self._pool.holders(disk.uuid)):
            raise WrongState(f"disk {disk_id} is in use", "VDI_IN_USE")

        async def pieces() -> AsyncIterator[bytes]:
            await self._step("export_disk", "piece", disk_id)
            yield self._pool.contents.get(disk.uuid, bytes(512))

        yield pieces()

    # ----------------------------------------------------------------------------------------------------- moving and hosts

    async def prepare_receive(self, host: str, network: str = "") -> MigrationTicket:
        """A ticket names the pool; the peers know the rest."""
        await self._begin("prepare_receive", host)
        facts = self._pool.hosts.get(host)
        if facts is None or not facts.live or not facts.enabled:
            raise NextHost(f"host {host} takes no servers")
        return MigrationTicket(self._pool.uuid, host, {"session": "secret"})

    async def migrate(self, server_id: str, migration: Migration, progress: Progress = lambda done: None) -> None:
        """In the steps copy, switch, answer."""
        await self._begin("migrate", server_id)
        vm = self._need(server_id)
        target = self._pool if migration.ticket is None else self._peers[migration.ticket.pool]
        moving = {
            attached.disk: migration.disks[attached.disk_id]
            for attached in vm.disks
            if attached.disk_id in migration.disks
        }
        if (
            target is self._pool
            and vm.host in (migration.host, "")
            and all(self._pool.disks[uuid].sr == sr for uuid, sr in moving.items())
        ):
            return
        check_arrival(self._pool, target, vm, migration, moving)
        if moving and self._pool.migrating >= STORAGE_MIGRATIONS_MAX:
            raise TryAgain("three storage migrations run already", "TOO_MANY_STORAGE_MIGRATES")
        self._pool.migrating += bool(moving)
        try:
            await self._step("migrate", "copy", server_id)
            progress(0.5)
            await self._step("migrate", "switch", server_id)
            current = self._need(server_id)
            check_arrival(self._pool, target, current, migration, moving)
            move_vm(self._pool, target, current, migration, moving)
        finally:
            self._pool.migrating -= bool(moving)
        await self._answer("migrate", server_id, None)

    async def set_host_enabled(self, host: str, enabled: bool) -> None:
        """At once."""
        await self._begin("set_host_enabled", host)
        self._pool.hosts[host] = replace(self._need_host(host), enabled=enabled)

    async def declare_dead(self, host: str) -> None:
        """Its VMs count as halted."""
        await self._begin("declare_dead", host)
        if self._need_host(host).live:
            raise WrongState(f"host {host} answers")
        for vm in [vm for vm in self._pool.vms.values() if vm.host == host]:
            self._pool.vms[vm.uuid] = replace(vm, power=PowerState.HALTED, host="")
        await self._answer("declare_dead", host, None)

    # -------------------------------------------------------------------------------------------------------------- within

    async def _begin(self, verb: str, subject: str) -> None:
        if not self._pool.reachable:
            raise Unreachable(f"pool {self._pool.uuid} does not answer")
        await self._step(verb, "begin", subject)

    async def _answer(self, verb: str, subject: str, answer: T) -> T:
        await self._step(verb, "answer", subject)
        return answer

    @contextmanager
    def _undoing(self, undo: list[Callable[[], object]]) -> Iterator[None]:
        """Take back what was made when the pool fails; a caller that dies takes back nothing."""
        try:
            yield
        except Unreachable:
            raise
        except HypervisorError:
            for take_back in reversed(undo):
                take_back()
            raise

    def _find(self, server_id: str) -> VmFacts | None:
        return next(
            (
                vm
                for vm in self._pool.vms.values()
                if vm.server_id == server_id and not vm.snapshot_id and not vm.unfinished
            ),
            None,
        )

    def _need(self, server_id: str) -> VmFacts:
        vm = self._find(server_id)
        if vm is None:
            raise Gone(f"server {server_id} is not in pool {self._pool.uuid}", "UUID_INVALID")
        return vm

    def _need_disk(self, disk_id: str) -> DiskFacts:
        disk = self._pool.disk_of(disk_id)
        if disk is None:
            raise Gone(f"disk {disk_id} is not in pool {self._pool.uuid}", "UUID_INVALID")
        return disk

    def _need_host(self, host: str) -> HostFacts:
        if host not in self._pool.hosts:
            raise Gone(f"host {host} is not in pool {self._pool.uuid}")
        return self._pool.hosts[host]

    def _remove_older(self, spec: ServerSpec) -> None:
        """Unfinished VMs of the same server by earlier builds, with their disks."""
        for vm in [vm for vm in self._pool.vms.values() if vm.server_id == spec.server_id and vm.unfinished]:
            if vm.build > spec.build:
                raise Superseded(f"server {spec.server_id} is built by a later task")
            if vm.build < spec.build:
                for attached in vm.disks:
                    self._pool.disks.pop(attached.disk, None)
                del self._pool.vms[vm.uuid]

    def _check_sr(self, sr: str, more_bytes: int, host: str) -> None:
        facts = self._pool.srs.get(sr)
        if facts is None or not facts.hosts or (host and host not in facts.hosts):
            raise NextSr(f"SR {sr} is out of reach", "SR_HAS_NO_PBDS")
        if self._pool.sr_used(sr) + more_bytes > facts.size_bytes:
            self._pool.overruns += 1
            raise NextSr(f"SR {sr} is full", "SR_FULL")

    async def _make_disk(
        self, spec: DiskSpec, server_id: str, host: str, undo: list[Callable[[], object]]
    ) -> DiskFacts:
        """An unfinished disk with its content."""
        pool = self._pool
        if spec.image is not None and spec.image.format == "raw" and spec.image.size_bytes > spec.size_bytes:
            raise Refused(f"an image of {spec.image.size_bytes} bytes does not fit a disk of {spec.size_bytes}")
        source = self._need_disk(spec.copy_of) if spec.copy_of else None
        self._check_sr(spec.sr, spec.size_bytes, host)
        disk = DiskFacts(
            pool.new_uuid("disk"), spec.sr, spec.name, spec.size_bytes, spec.disk_id, server_id, unfinished=True
        )
        pool.disks[disk.uuid] = disk
        undo.append(lambda: pool.disks.pop(disk.uuid, None))
        if spec.image is not None:
            async with spec.image.open() as pieces:
                pool.contents[disk.uuid] = b"".join([piece async for piece in pieces])
        elif source is not None and source.uuid in pool.contents:
            pool.contents[disk.uuid] = pool.contents[source.uuid]
        return disk

    def _copy_disk(self, disk: DiskFacts, disk_id: str, server_id: str) -> DiskFacts:
        self._check_sr(disk.sr, 0, "")
        copy = replace(
            disk,
            uuid=self._pool.new_uuid("disk"),
            disk_id=disk_id,
            server_id=server_id,
            snapshot_of=disk.disk_id,
            size_bytes=0,
        )
        self._pool.disks[copy.uuid] = copy
        if disk.uuid in self._pool.contents:
            self._pool.contents[copy.uuid] = self._pool.contents[disk.uuid]
        return copy

    def _check_host(self, host: str, vm: VmFacts) -> None:
        facts = self._pool.hosts.get(host)
        if facts is None or not facts.live or not facts.enabled:
            raise NextHost(f"host {host} takes no servers", "HOST_DISABLED")
        if any(host not in self._pool.srs[self._pool.disks[disk.disk].sr].hosts for disk in vm.disks):
            raise NextHost(f"host {host} does not reach all disks", "VM_REQUIRES_SR")
        if self._pool.memory_used(host) + vm.memory_bytes > facts.memory_total_bytes:
            self._pool.overruns += 1
            raise NextHost(f"host {host} has too little memory", "HOST_NOT_ENOUGH_FREE_MEMORY")
