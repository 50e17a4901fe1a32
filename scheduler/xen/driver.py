"""One Xen pool behind the hypervisor's interface: who does what.

Each verb belongs to one subject, and each subject is a file: `building`, `servers`, `snapshots`, `volumes`,
`attachments`, `migration`, over `disks`, `transfer` and the look-ups of `context`. What is left for here is the
inventory, hosts, and life and end of the connection.

Capacity: memory is what `host.compute_free_memory` says, since only the pool knows what its guests can be squeezed
to; it is asked anew when events changed a host or a VM, at most once a second, and always when a fresh inventory is
wanted. SR sizes come with the events.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import trio

from scheduler.hypervisor import (
    AttachedDisk,
    DiskFacts,
    DiskSpec,
    Hypervisor,
    HypervisorError,
    ImageFormat,
    Migration,
    MigrationTicket,
    PoolInventory,
    PowerAction,
    Progress,
    ServerSpec,
    VmFacts,
    WrongState,
)
from scheduler.xen.arrivals import Arrivals
from scheduler.xen.attachments import Attachments
from scheduler.xen.building import Building
from scheduler.xen.context import Context
from scheduler.xen.disks import Disks
from scheduler.xen.facts import host_facts, inventory, text
from scheduler.xen.follower import Follower
from scheduler.xen.migration import Migrations
from scheduler.xen.picture import Picture
from scheduler.xen.servers import Servers
from scheduler.xen.session import PoolSession
from scheduler.xen.settings import PoolSettings
from scheduler.xen.snapshots import Snapshots
from scheduler.xen.tasks import nothing
from scheduler.xen.transfer import Transfers
from scheduler.xen.volumes import Volumes

MEMORY_EVERY_S = 1.0
"""How often, at most, hosts are asked for their memory while VMs come and go."""
PROBE_AGE_S_MAX = 15.0


class XenPool:
    """A `Hypervisor` over XenAPI."""

    def __init__(self, settings: PoolSettings, cluster: str) -> None:
        """`cluster` is the id that everything made is tagged with. Does no I/O but reading the CA file."""
        self._session = PoolSession(settings)
        self._follower = Follower(self._session)
        self._context = context = Context(self._session, self._follower, cluster)
        transfers = Transfers(context)
        disks = Disks(context, transfers)
        self._attachments = Attachments(context)
        self._arrivals = Arrivals(context)
        self._migrations = Migrations(context, self._arrivals)
        self._servers = Servers(context, disks, self._arrivals)
        self._building = Building(context, self._servers, disks, self._attachments)
        self._snapshots = Snapshots(context, self._servers, disks, self._attachments)
        self._volumes = Volumes(context, disks, transfers)
        self._free: dict[str, int] = {}
        self._free_at = -math.inf
        self._free_of = -1

    def __repr__(self) -> str:
        return f"XenPool({self.name!r})"

    @property
    def name(self) -> str:
        """What the operator called the pool."""
        return self._session.settings.name

    @property
    def trouble(self) -> HypervisorError | None:
        """What keeps the pool from being followed, if anything does."""
        return self._follower.trouble

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Hypervisor.run`."""
        await self._follower.run(task_status=task_status)

    async def close(self) -> None:
        """See `Hypervisor.close`."""
        await self._session.close()

    async def inventory(self, *, fresh: bool = False) -> PoolInventory:
        """See `Hypervisor.inventory`."""
        self._follower.check_master()
        picture = self._follower.picture
        if fresh or not self._follower.is_current:
            picture = await self._follower.now()
        if await self._arrivals.welcome(picture):
            picture = await self._follower.now()
        await self._follower.probe_all(max_age_s=0.0 if fresh else PROBE_AGE_S_MAX)
        await self._ask_memory(picture, fresh)
        hosts = tuple(
            host_facts(
                picture,
                ref,
                host,
                free_bytes=self._free.get(ref, 0),
                live=self._follower.is_live(ref, host),
            )
            for ref, host in picture.table("host").items()
        )
        return inventory(picture, self._context.cluster, hosts)

    async def _ask_memory(self, picture: Picture, fresh: bool) -> None:
        changes = self._follower.changes
        stale = changes != self._free_of and trio.current_time() - self._free_at > MEMORY_EVERY_S
        if not (fresh or stale):
            return
        found: dict[str, int] = {}

        async def ask(ref: str) -> None:
            try:
                found[ref] = max(0, int(await self._context.call("host.compute_free_memory", ref)))
            except (HypervisorError, ValueError):
                found[ref] = 0  # a host of which nobody knows has no room

        async with trio.open_nursery() as nursery:
            for ref in picture.table("host"):
                nursery.start_soon(ask, ref)
        self._free, self._free_of, self._free_at = found, changes, trio.current_time()

    async def set_host_enabled(self, host: str, enabled: bool) -> None:
        """See `Hypervisor.set_host_enabled`."""
        ref, record = self._context.by_uuid(await self._follower.now(), "host", host)
        if (record.get("enabled") is True) is not enabled:
            method = "host.enable" if enabled else "host.disable"
            await self._context.settle(
                "host",
                ref,
                lambda: self._context.task(method, ref),
                lambda now: (now.get("enabled") is True) is enabled,
            )

    async def declare_dead(self, host: str) -> None:
        """See `Hypervisor.declare_dead`. It must be silent both to us and to the pool's master."""
        context = self._context
        ref, record = context.by_uuid(await self._follower.now(), "host", host)
        if await self._follower.answers(record):
            raise WrongState(f"pool {self.name}: host {text(record, 'name_label')} answers; it is not dead")
        if await self._master_reaches(ref):
            raise WrongState(f"pool {self.name}: the master reaches host {text(record, 'name_label')}; it is not dead")
        await context.settle("host", ref, lambda: context.task("host.declare_dead", ref), lambda _record: False)

    async def _master_reaches(self, host: str) -> bool:
        """Whether a call that the master has to pass on to the host is answered."""
        try:
            await self._context.call("host.get_servertime", host, timeout_s=10)
        except HypervisorError:
            return False
        return True

    async def find_server(self, server_id: str) -> VmFacts | None:
        """See `Hypervisor.find_server`."""
        return await self._servers.find(server_id)

    async def create_server(self, spec: ServerSpec, host: str, progress: Progress = nothing) -> VmFacts:
        """See `Hypervisor.create_server`."""
        return await self._building.create(spec, host, progress)

    async def power(self, server_id: str, action: PowerAction, host: str = "") -> VmFacts:
        """See `Hypervisor.power`."""
        return await self._servers.power(server_id, action, host)

    async def destroy_server(self, server_id: str) -> None:
        """See `Hypervisor.destroy_server`."""
        await self._servers.destroy(server_id)

    async def set_name(self, server_id: str, name: str) -> None:
        """See `Hypervisor.set_name`."""
        await self._servers.set_name(server_id, name)

    async def console_url(self, server_id: str) -> str:
        """See `Hypervisor.console_url`."""
        return await self._servers.console_url(server_id)

    async def snapshot_server(self, server_id: str, snapshot_id: str, name: str) -> None:
        """See `Hypervisor.snapshot_server`."""
        await self._snapshots.create(server_id, snapshot_id, name)

    async def revert_server(self, server_id: str, snapshot_id: str) -> None:
        """See `Hypervisor.revert_server`."""
        await self._snapshots.revert(server_id, snapshot_id)

    async def delete_server_snapshot(self, snapshot_id: str) -> None:
        """See `Hypervisor.delete_server_snapshot`."""
        await self._snapshots.delete(snapshot_id)

    async def prepare_receive(self, host: str, network: str = "") -> MigrationTicket:
        """See `Hypervisor.prepare_receive`."""
        return await self._migrations.prepare_receive(host, network)

    async def migrate(self, server_id: str, migration: Migration, progress: Progress = nothing) -> None:
        """See `Hypervisor.migrate`."""
        await self._migrations.migrate(server_id, migration, progress)

    async def create_disk(self, spec: DiskSpec, progress: Progress = nothing) -> DiskFacts:
        """See `Hypervisor.create_disk`."""
        return await self._volumes.create(spec, progress)

    async def resize_disk(self, disk_id: str, size_bytes: int) -> DiskFacts:
        """See `Hypervisor.resize_disk`."""
        return await self._volumes.resize(disk_id, size_bytes)

    async def snapshot_disk(self, disk_id: str, snapshot_id: str, name: str) -> DiskFacts:
        """See `Hypervisor.snapshot_disk`."""
        return await self._volumes.snapshot(disk_id, snapshot_id, name)

    async def delete_disk(self, disk_id: str) -> None:
        """See `Hypervisor.delete_disk`."""
        await self._volumes.delete(disk_id)

    async def attach_disk(self, server_id: str, disk_id: str, *, read_only: bool = False) -> AttachedDisk:
        """See `Hypervisor.attach_disk`."""
        return await self._attachments.attach(server_id, disk_id, read_only=read_only)

    async def detach_disk(self, server_id: str, disk_id: str) -> None:
        """See `Hypervisor.detach_disk`."""
        await self._attachments.detach(server_id, disk_id)

    def export_disk(self, disk_id: str, image_format: ImageFormat) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See `Hypervisor.export_disk`."""
        return self._volumes.export(disk_id, image_format)

    async def remove_vm(self, uuid: str) -> None:
        """See `Hypervisor.remove_vm`."""
        await self._servers.remove_by_uuid(uuid)

    async def remove_disk(self, uuid: str) -> None:
        """See `Hypervisor.remove_disk`."""
        await self._volumes.remove_by_uuid(uuid)


def _is_a_hypervisor(pool: XenPool) -> Hypervisor:
    return pool  # mypy holds the driver to the interface here
