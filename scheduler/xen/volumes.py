"""Disks that are nobody's own: volumes, and snapshots of disks as disks.

A snapshot of a disk inherits the tags of the disk. To be found under its own id from its first moment, that id is
written on the *source* before `VDI.snapshot`, inherited with the rest, and then made the snapshot's own (see `tags`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from scheduler.hypervisor import DiskFacts, DiskSpec, ImageFormat, Progress, Refused, TryAgain, WrongState
from scheduler.xen import tags
from scheduler.xen.context import Context
from scheduler.xen.disks import Disks
from scheduler.xen.errors import NoAnswer
from scheduler.xen.facts import disk_facts, mapping, number, text
from scheduler.xen.picture import Picture
from scheduler.xen.tags import Record
from scheduler.xen.tasks import nothing
from scheduler.xen.transfer import Transfers
from scheduler.xen.undo import undoing


class Volumes:
    """Volumes of one pool."""

    def __init__(self, context: Context, disks: Disks, transfers: Transfers) -> None:
        self._context = context
        self._disks = disks
        self._transfers = transfers

    async def _facts(self, disk_id: str) -> DiskFacts:
        picture = await self._context.now()
        return disk_facts(picture, self._context.disk(picture, disk_id)[1], self._context.cluster)

    async def create(self, spec: DiskSpec, progress: Progress = nothing) -> DiskFacts:
        """See `Hypervisor.create_disk`."""
        context = self._context
        picture = await context.now()
        found = context.find_disk(picture, spec.disk_id)
        if found is not None and not tags.is_unfinished(found[1], context.cluster):
            return disk_facts(picture, found[1], context.cluster)
        await self._remove_unfinished(picture, spec.disk_id)
        sr = context.sr_at(picture, spec.sr, "")
        await self._disks.check(picture, spec)
        async with undoing() as undo:
            undo.push(f"disk {spec.disk_id}", lambda: self._undo(spec.disk_id))
            await self._disks.make(spec, sr, progress=progress)
            undo.forget()
        return await self._facts(spec.disk_id)

    async def _undo(self, disk_id: str) -> None:
        await self._remove_unfinished(await self._context.now(), disk_id)

    async def _remove_unfinished(self, picture: Picture, disk_id: str) -> None:
        cluster = self._context.cluster
        await self._disks.destroy(
            ref
            for ref, vdi in list(picture.table("VDI").items())
            if tags.disk_of(vdi, cluster) == disk_id and tags.is_unfinished(vdi, cluster)
        )

    async def resize(self, disk_id: str, size_bytes: int) -> DiskFacts:
        """See `Hypervisor.resize_disk`."""
        context = self._context
        picture = await context.now()
        ref, vdi = context.disk(picture, disk_id)
        has = number(vdi, "virtual_size")
        if size_bytes < has:
            raise Refused(f"pool {context.name}: disk {disk_id} has {has} bytes; disks do not shrink")
        if size_bytes > has:
            for _, vbd in self._disks.attachments(picture, vdi):
                if vbd.get("currently_attached") is True:
                    raise WrongState(f"pool {context.name}: disk {disk_id} is attached to a running server")
            await context.settle(
                "VDI",
                ref,
                lambda: context.task("VDI.resize", ref, size_bytes),
                lambda record: number(record, "virtual_size") >= size_bytes,
            )
        return await self._facts(disk_id)

    async def snapshot(self, disk_id: str, snapshot_id: str, name: str) -> DiskFacts:
        """See `Hypervisor.snapshot_disk`."""
        context = self._context
        picture = await context.now()
        made = context.find_disk(picture, snapshot_id)
        if made is None:
            source, _ = context.disk(picture, disk_id)
            snapshot = self._pending(picture, snapshot_id) or await self._snapshot(source, snapshot_id)
            # One write from "a snapshot of" to "a disk of its own": it is never both, and never neither.
            await context.call(
                "VDI.set_other_config", snapshot, tags.for_snapshot(context.cluster, snapshot_id, disk_id)
            )
            await context.call("VDI.set_name_label", snapshot, name)
            await context.put_tags("VDI", source, {}, drop=(tags.SNAPSHOT,))
        return await self._facts(snapshot_id)

    def _pending(self, picture: Picture, snapshot_id: str) -> str:
        for ref, vdi in picture.table("VDI").items():
            if tags.pending_snapshot_of(vdi, self._context.cluster) == snapshot_id:
                return ref
        return ""

    async def _snapshot(self, source: str, snapshot_id: str) -> str:
        await self._context.put_tags("VDI", source, {tags.SNAPSHOT: snapshot_id})
        try:
            return await self._context.task("VDI.snapshot", source, {})
        except NoAnswer:
            await self._context.quiet("VDI", source)
            found = self._pending(await self._context.now(), snapshot_id)
            if not found:
                raise
            return found

    async def delete(self, disk_id: str) -> None:
        """See `Hypervisor.delete_disk`."""
        context = self._context
        picture = await context.now()
        found = [
            (ref, vdi)
            for ref, vdi in picture.table("VDI").items()
            if disk_id in (tags.disk_of(vdi, context.cluster), tags.pending_snapshot_of(vdi, context.cluster))
        ]
        for _, vdi in found:
            self._assert_unattached(picture, vdi)
        await self._disks.destroy(ref for ref, _ in found)

    def _assert_unattached(self, picture: Picture, vdi: Record) -> None:
        for _, vbd in self._disks.attachments(picture, vdi):
            vm = text(picture.record("VM", text(vbd, "VM")), "name_label")
            raise WrongState(f"pool {self._context.name}: disk {text(vdi, 'name_label')!r} is in the VM {vm!r}")

    async def remove_by_uuid(self, uuid: str) -> None:
        """See `Hypervisor.remove_disk`."""
        context = self._context
        picture = await context.now()
        for ref, vdi in list(picture.table("VDI").items()):
            if text(vdi, "uuid") == uuid:
                if mapping(vdi, "other_config").get(tags.CLUSTER) != context.cluster:
                    raise Refused(f"pool {context.name}: disk {text(vdi, 'name_label')!r} is not Ringstead's")
                self._assert_unattached(picture, vdi)
                self._assert_no_copy_under_way(picture, vdi)
                await self._disks.destroy([ref])

    def _assert_no_copy_under_way(self, picture: Picture, vdi: Record) -> None:
        """A disk of the same id as one on which something is going on is not left over: it is what a move is making."""
        disk_id = tags.disk_of(vdi, self._context.cluster)
        for other in picture.table("VDI").values():
            if disk_id and tags.disk_of(other, self._context.cluster) == disk_id and self._is_busy(picture, other):
                raise TryAgain(f"pool {self._context.name}: something is going on with disk {disk_id}")

    def _is_busy(self, picture: Picture, vdi: Record) -> bool:
        vms = (picture.record("VM", text(vbd, "VM")) for _, vbd in self._disks.attachments(picture, vdi))
        return any(record is not None and record.get("current_operations") for record in (vdi, *vms))

    @asynccontextmanager
    async def export(self, disk_id: str, image_format: ImageFormat) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Hypervisor.export_disk`."""
        context = self._context
        picture = await context.now()
        ref, vdi = context.disk(picture, disk_id)
        if self._is_written(picture, vdi):
            raise WrongState(f"pool {context.name}: a running server writes to disk {disk_id}; take a snapshot first")
        length = number(vdi, "virtual_size") if image_format == "raw" else None
        async with self._transfers.get(ref, image_format, length) as pieces:
            yield pieces

    def _is_written(self, picture: Picture, vdi: Record) -> bool:
        return any(
            vbd.get("currently_attached") is True and text(vbd, "mode") == "RW"
            for _, vbd in self._disks.attachments(picture, vdi)
        )
