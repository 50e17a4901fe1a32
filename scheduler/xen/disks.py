"""Making and removing VDIs with Ringstead's ids.

A disk is created with its tags and the mark `unfinished` in one call, so there is no moment in which it exists
unnamed; filled; and unmarked last. A `VDI.create` whose answer was lost is found again by its id. A copy goes *into*
a disk that was made that way (`VDI.copy` with `into_vdi`), since one that `VDI.copy` makes itself would carry the
first one's tags.
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.hypervisor import DiskSpec, Gone, HypervisorError, ImageSource, Progress, Refused, TryAgain, WrongState
from scheduler.xen import tags
from scheduler.xen.context import Context
from scheduler.xen.errors import NoAnswer
from scheduler.xen.facts import NULL, number, refs, text
from scheduler.xen.images import HEAD_BYTES, disk_bytes
from scheduler.xen.picture import Picture
from scheduler.xen.session import Value
from scheduler.xen.tags import Record
from scheduler.xen.tasks import nothing
from scheduler.xen.transfer import Transfers


class Disks:
    """VDIs of one pool."""

    def __init__(self, context: Context, transfers: Transfers) -> None:
        self._context = context
        self._transfers = transfers

    async def check(self, picture: Picture, spec: DiskSpec) -> None:
        """Raises what can be known to be wrong before anything is made: Refused for the image, Gone for `copy_of`."""
        if spec.size_bytes < 1 and spec.image is None and not spec.copy_of:
            raise Refused(f"disk {spec.disk_id} has no size")
        if spec.image is not None:
            needed = disk_bytes(await head_of(spec.image), spec.image.size_bytes, spec.image.format)
            self._assert_holds(spec, needed, "its image")
        elif spec.copy_of:
            _, source = self._context.disk(picture, spec.copy_of)
            self._assert_holds(spec, number(source, "virtual_size"), f"disk {spec.copy_of}")

    def _assert_holds(self, spec: DiskSpec, needed: int, what: str) -> None:
        if 0 < spec.size_bytes < needed:
            raise Refused(f"disk {spec.disk_id} is to have {spec.size_bytes} bytes; {what} has {needed}")

    async def make(
        self,
        spec: DiskSpec,
        sr: str,
        server_id: str = "",
        progress: Progress = nothing,
        *,
        keep_mark: bool = False,
        made: list[str] | None = None,
    ) -> str:
        """Make and fill a disk on an SR; its reference, which is noted in `made` as soon as there is one.

        With `keep_mark` it stays marked unfinished.
        """
        size = spec.size_bytes
        if spec.image is not None:
            size = max(size, disk_bytes(await head_of(spec.image), spec.image.size_bytes, spec.image.format))
        source = ""
        if spec.copy_of:
            source, record = self._context.disk(await self._context.now(), spec.copy_of)
            size = max(size, number(record, "virtual_size"))
        ref = await self._create(spec, size, sr, tags.for_disk(self._context.cluster, spec.disk_id, server_id))
        if made is not None:
            made.append(ref)
        if spec.image is not None:
            await self._transfers.put(ref, spec.image, progress)
        elif source:
            await self._context.task("VDI.copy", source, NULL, NULL, ref, progress=progress)
        if not keep_mark:
            await self.unmark(ref)
        progress(1.0)
        return ref

    async def unmark(self, ref: str) -> None:
        """The disk is whole."""
        await self._context.put_tags("VDI", ref, {}, drop=(tags.UNFINISHED,))

    async def _create(self, spec: DiskSpec, size_bytes: int, sr: str, other_config: dict[str, str]) -> str:
        record: dict[str, Value] = {
            "name_label": spec.name,
            "name_description": "",
            "SR": sr,
            "virtual_size": size_bytes,
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": other_config,
            "xenstore_data": {},
            "sm_config": {},
            "tags": [],
        }
        try:
            return str(await self._context.call("VDI.create", record))
        except NoAnswer:
            found = self._context.find_disk(await self._context.now(), spec.disk_id)
            if found is None:
                raise
            return found[0]

    async def destroy(self, found: Iterable[str]) -> None:
        """Destroy VDIs; those that are gone are fine. The last error is raised after all were tried."""
        problem: Exception | None = None
        for ref in found:
            try:
                await self._destroy_one(ref)
            except Gone:
                continue
            except HypervisorError as error:
                problem = error
        if problem is not None:
            raise problem

    async def destroy_unfinished(self, found: Iterable[str]) -> None:
        """Destroy those VDIs that are marked unfinished still."""
        picture = await self._context.now()
        marked = [(ref, picture.record("VDI", ref)) for ref in found]
        await self.destroy(
            ref for ref, vdi in marked if vdi is not None and tags.is_unfinished(vdi, self._context.cluster)
        )

    async def _destroy_one(self, ref: str) -> None:
        async def act() -> None:
            await self._context.task("VDI.destroy", ref)

        try:
            await self._context.settle("VDI", ref, act, lambda _record: False)
        except (TryAgain, WrongState):
            # An import or copy that broke off may be ending only now.
            await self._context.quiet("VDI", ref)
            await self._context.settle("VDI", ref, act, lambda _record: False)

    def owned_by(self, picture: Picture, server_id: str) -> list[str]:
        """The VDIs that go with a server: its own, and their snapshots in its snapshots. Never a volume."""
        return [
            ref for ref, vdi in picture.table("VDI").items() if tags.owner_of(vdi, self._context.cluster) == server_id
        ]

    def attachments(self, picture: Picture, vdi: Record) -> list[tuple[str, Record]]:
        """The VBDs of a VDI that still belong to a VM that exists."""
        found = ((ref, picture.record("VBD", ref)) for ref in refs(vdi, "VBDs"))
        return [
            (ref, vbd) for ref, vbd in found if vbd is not None and picture.record("VM", text(vbd, "VM")) is not None
        ]


async def head_of(image: ImageSource) -> bytes:
    """The first bytes of an image."""
    head = b""
    async with image.open() as pieces:
        async for piece in pieces:
            head += piece[:HEAD_BYTES]
            if len(head) >= HEAD_BYTES:
                break
    return head[:HEAD_BYTES]
