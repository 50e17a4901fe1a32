"""Snapshots of servers: made, gone back to, deleted.

A server's snapshot is of its own disks. Volumes are not part of it: they have snapshots of their own, and going back
must not take a volume's data with it. So they are left out when it is made (`ignore_vdis`), and taken out of the VM
while `VM.revert` runs, which throws away every disk that the VM has, and put back afterwards. Which ones, and how, is
written on the volumes themselves, in case somebody dies in between: what is on the VM is replaced by what was on it
at the time of the snapshot.
"""

from __future__ import annotations

from scheduler.hypervisor import Gone, WrongState
from scheduler.xen import tags
from scheduler.xen.attachments import Attachments
from scheduler.xen.context import Context
from scheduler.xen.disks import Disks
from scheduler.xen.errors import NoAnswer
from scheduler.xen.facts import mapping, text, vbds_of
from scheduler.xen.picture import Picture
from scheduler.xen.servers import Servers
from scheduler.xen.tags import Record

SET_ASIDE = "ringstead-set-aside"
"""On a VM that is being reverted: the disk ids of its volumes, each with `:ro` if it was read-only, parted by
spaces."""


class Snapshots:
    """Snapshots of servers of one pool."""

    def __init__(self, context: Context, servers: Servers, disks: Disks, attachments: Attachments) -> None:
        self._context = context
        self._servers = servers
        self._disks = disks
        self._attachments = attachments

    def _find(self, picture: Picture, snapshot_id: str) -> tuple[str, Record] | None:
        for ref, vm in picture.table("VM").items():
            if tags.snapshot_of_server(vm, self._context.cluster) == snapshot_id:
                return ref, vm
        return None

    def _volumes(self, picture: Picture, vm: Record) -> list[tuple[str, Record, str]]:
        """(VBD, VDI record, VDI) of disks in a VM that are not its own."""
        found = []
        for _, vbd in vbds_of(picture, vm):
            ref = text(vbd, "VDI")
            vdi = picture.record("VDI", ref)
            if vdi is not None and not tags.owner_of(vdi, self._context.cluster):
                found.append((ref, vbd, tags.disk_of(vdi, self._context.cluster)))
        return found

    async def create(self, server_id: str, snapshot_id: str, name: str) -> None:
        """See `Hypervisor.snapshot_server`."""
        context = self._context
        picture = await context.now()
        if self._find(picture, snapshot_id) is not None:
            return
        ref, vm = context.vm(picture, server_id)
        ignored = [vdi for vdi, _, _ in self._volumes(picture, vm)]
        await context.put_tags("VM", ref, {tags.SNAPSHOT: snapshot_id})
        try:
            await context.task("VM.snapshot", ref, name, ignored)
        except NoAnswer:
            await context.quiet("VM", ref)
            if self._find(await context.now(), snapshot_id) is None:
                raise
        await context.put_tags("VM", ref, {}, drop=(tags.SNAPSHOT,))

    async def revert(self, server_id: str, snapshot_id: str) -> None:
        """See `Hypervisor.revert_server`."""
        context = self._context
        picture = await context.now()
        ref, vm = context.vm(picture, server_id)
        found = self._find(picture, snapshot_id)
        if found is None or tags.server_of(found[1], context.cluster) != server_id:
            raise Gone(f"pool {context.name}: snapshot {snapshot_id} of server {server_id} is not here")
        await self._servers.cut(ref)
        for vdi, vbd, disk_id in self._volumes(picture, vm):
            if not disk_id:
                raise WrongState(
                    f"pool {context.name}: the server has a disk that is not Ringstead's; take it out first"
                )
            await context.put_tags("VDI", vdi, {SET_ASIDE: f"{server_id} {text(vbd, 'mode')}"})
            await self._attachments.detach(server_id, disk_id)
        await context.settle("VM", ref, lambda: context.task("VM.revert", found[0]), lambda _record: False)
        await self._servers.cut(ref)
        for vdi, record in list((await context.now()).table("VDI").items()):
            owner, _, mode = mapping(record, "other_config").get(SET_ASIDE, "").partition(" ")
            disk_id = tags.disk_of(record, context.cluster)
            if owner == server_id and disk_id:
                await self._attachments.attach(server_id, disk_id, read_only=mode == "RO")
                await context.put_tags("VDI", vdi, {}, drop=(SET_ASIDE,))
        await context.put_tags("VM", ref, {}, drop=(tags.SNAPSHOT,))

    async def delete(self, snapshot_id: str) -> None:
        """See `Hypervisor.delete_server_snapshot`."""
        picture = await self._context.now()
        found = self._find(picture, snapshot_id)
        if found is not None:
            ref, vm = found
            await self._servers.remove_vm(picture, ref, vm)
