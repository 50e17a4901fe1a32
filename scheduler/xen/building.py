"""Making a server, so that it is whole or nothing.

From the outside in, and whole only when the last mark comes off:

1. the VM itself, marked unfinished. Without template by `VM.create`, which sets the tags in the same call. From a
template by `VM.clone` (its
   disks stay on their SR, copy on write) or `VM.copy` (its disk is wanted on another SR), under a name that says
   whose it is until the tags are on, then `VM.provision`;
2. its memory, vCPUs, interfaces;
3. its disks, each with its own tags, and their VBDs;
4. the marks off the disks, then off the VM.

Whoever finds a VM or disk with the mark knows that nobody has relied on it, and removes it: that is all that recovery
is. The verb itself does it for the builds before it, and for its own when a step fails.
"""

from __future__ import annotations

from scheduler.hypervisor import DiskSpec, Progress, Refused, ServerSpec, Superseded, VmFacts
from scheduler.xen import tags
from scheduler.xen.attachments import Attachments
from scheduler.xen.context import Context
from scheduler.xen.disks import Disks
from scheduler.xen.errors import NoAnswer
from scheduler.xen.facts import is_template, mapping, number, text, vbds_of, vm_facts
from scheduler.xen.guests import vm_record
from scheduler.xen.picture import Picture
from scheduler.xen.servers import Servers
from scheduler.xen.session import Value
from scheduler.xen.tags import Record
from scheduler.xen.tasks import nothing
from scheduler.xen.undo import undoing

TEMPLATE_KEYS = frozenset({"disks", "default_template", "xensource_internal", "import_task", "mac_seed"})
"""Of a template's `other_config`: what is about the template, not about what is made of it."""


class Building:
    """Makes servers in one pool."""

    def __init__(self, context: Context, servers: Servers, disks: Disks, attachments: Attachments) -> None:
        self._context = context
        self._servers = servers
        self._disks = disks
        self._attachments = attachments

    async def create(self, spec: ServerSpec, host: str, progress: Progress = nothing) -> VmFacts:
        """See `Hypervisor.create_server`."""
        context = self._context
        picture = await context.now()
        for _, vm in context.vms_of(picture, spec.server_id):
            if not tags.is_unfinished(vm, context.cluster):
                return vm_facts(picture, vm, context.cluster)
            if tags.build_of(vm, context.cluster) > spec.build:
                raise Superseded(f"pool {context.name}: a later build of server {spec.server_id} is there")
        await self._servers.remove(spec.server_id)
        host_ref, _ = context.by_uuid(picture, "host", host)
        srs = {disk.disk_id: context.sr_at(picture, disk.sr, host_ref) for disk in (spec.root, *spec.disks)}
        for disk in (spec.root, *spec.disks):
            await self._disks.check(picture, disk)
        for nic in spec.nics:
            context.network(picture, nic.network)
        template = self._template(picture, spec.template) if spec.template else None
        disks: list[str] = []
        async with undoing() as undo:
            undo.push(f"disks of server {spec.server_id}", lambda: self._disks.destroy_unfinished(disks))
            undo.push(
                f"the unfinished server {spec.server_id}", lambda: self._servers.remove(spec.server_id, spec.build)
            )
            if template is None:
                made = await self._new(spec)
            else:
                made = await self._from_template(picture, spec, template, srs[spec.root.disk_id], progress)
            await self._shape(made, spec, host_ref)
            await self._interfaces(made, spec, picture)
            await self._fill(made, spec, srs, disks, progress)
            await self._finish(spec)
            undo.forget()
        progress(1.0)
        return await self._servers.facts(spec.server_id)

    def _template(self, picture: Picture, wanted: str) -> tuple[str, Record]:
        named = [
            (ref, vm)
            for ref, vm in picture.table("VM").items()
            if is_template(vm, self._context.cluster) and wanted in (text(vm, "uuid"), text(vm, "name_label"))
        ]
        if not named:
            raise Refused(f"pool {self._context.name}: there is no template {wanted!r}")
        if len(named) > 1 and not any(text(vm, "uuid") == wanted for _, vm in named):
            raise Refused(
                f"pool {self._context.name}: {len(named)} templates are called {wanted!r}; name one by its uuid"
            )
        return named[0]

    async def _new(self, spec: ServerSpec) -> str:
        """A VM that no template was there for."""
        marks = tags.for_server(self._context.cluster, spec.server_id, spec.build)
        try:
            return str(await self._context.call("VM.create", vm_record(spec, marks)))
        except NoAnswer:
            return self._begun(await self._context.now(), spec)

    def _begun(self, picture: Picture, spec: ServerSpec) -> str:
        """The VM that a call without an answer made. Raises NoAnswer if it made none."""
        for ref, vm in self._context.vms_of(picture, spec.server_id):
            if tags.build_of(vm, self._context.cluster) == spec.build:
                return ref
        raise NoAnswer(f"pool {self._context.name}: no answer, and no VM of server {spec.server_id}")

    async def _from_template(
        self, picture: Picture, spec: ServerSpec, template: tuple[str, Record], sr: str, progress: Progress
    ) -> str:
        context, (source, record) = self._context, template
        disks = [picture.record("VDI", text(vbd, "VDI")) for _, vbd in vbds_of(picture, record)]
        name = tags.birth_name(context.cluster, spec.server_id, spec.build)
        copied = spec.root.image is None and bool(disks) and any(text(vdi, "SR") != sr for vdi in disks)
        if spec.root.image is None and disks and 0 < spec.root.size_bytes < number(disks[0], "virtual_size"):
            raise Refused(
                f"disk {spec.root.disk_id} is to have {spec.root.size_bytes} bytes; that of template {spec.template!r} has"
                f" {number(disks[0], 'virtual_size')}"
            )
        try:
            if copied:
                vm = await context.task("VM.copy", source, name, sr, progress=progress)
            else:
                vm = await context.task("VM.clone", source, name)
        except NoAnswer:
            await context.quiet("VM", source)  # it may be cloning still
            vm = self._begun(await context.now(), spec)
        # What the template would have `provision` make is made here, with tags; and tags of ours on a template are
        # none.
        kept = {key: value for key, value in mapping(record, "other_config").items() if key not in TEMPLATE_KEYS}
        marks = tags.for_server(context.cluster, spec.server_id, spec.build)
        await context.call("VM.set_other_config", vm, {**tags.without_ours(kept), **marks})
        await context.task("VM.provision", vm)
        if spec.root.image is not None:
            await self._without_disks(vm)
        return vm

    async def _own_disks(self, vm: str) -> list[tuple[str, str]]:
        """(VBD, VDI) of each disk in a VM, by device number."""
        picture = await self._context.now()
        record = picture.record("VM", vm)
        return [(ref, text(vbd, "VDI")) for ref, vbd in vbds_of(picture, record)] if record is not None else []

    async def _without_disks(self, vm: str) -> None:
        for vbd, vdi in await self._own_disks(vm):
            await self._context.call("VBD.destroy", vbd)
            await self._disks.destroy([vdi])

    async def _shape(self, vm: str, spec: ServerSpec, host_ref: str) -> None:
        call, memory = self._context.call, spec.memory_bytes
        await call("VM.set_name_label", vm, spec.name)
        await call("VM.set_affinity", vm, host_ref)
        await self._context.task("VM.set_memory_limits", vm, memory, memory, memory, memory)
        # vCPUs at startup may never exceed the maximum, on the way there either.
        await call("VM.set_VCPUs_at_startup", vm, 1)
        await call("VM.set_VCPUs_max", vm, spec.vcpu_count)
        await call("VM.set_VCPUs_at_startup", vm, spec.vcpu_count)

    async def _interfaces(self, vm: str, spec: ServerSpec, picture: Picture) -> None:
        for vif in await self._context.call("VM.get_VIFs", vm):
            await self._context.call("VIF.destroy", vif)
        for index, nic in enumerate(spec.nics):
            record: dict[str, Value] = {
                "device": str(index),
                "network": self._context.network(picture, nic.network),
                "VM": vm,
                "MAC": nic.mac,
                "MTU": 1500,
                "other_config": {},
                "qos_algorithm_type": "",
                "qos_algorithm_params": {},
                "locking_mode": "network_default",
                "ipv4_allowed": [],
                "ipv6_allowed": [],
            }
            try:
                await self._context.call("VIF.create", record)
            except NoAnswer:
                if str(index) not in await self._vif_devices(vm):
                    raise

    async def _vif_devices(self, vm: str) -> set[str]:
        picture = await self._context.now()
        return {text(vif, "device") for vif in picture.table("VIF").values() if text(vif, "VM") == vm}

    async def _fill(self, vm: str, spec: ServerSpec, srs: dict[str, str], made: list[str], progress: Progress) -> None:
        """Its disks: those that came with the template are taken over, the others made, and noted in `made`."""
        wanted: list[DiskSpec] = [spec.root, *spec.disks]
        inherited = await self._own_disks(vm)
        if inherited:
            for index, (_, vdi) in enumerate(inherited):
                disk_id = spec.root.disk_id if index == 0 else f"{spec.root.disk_id}-{index}"
                await self._adopt(vdi, spec, disk_id)
            wanted = list(spec.disks)
        for index, disk in enumerate(wanted):
            vdi = await self._disks.make(
                disk,
                srs[disk.disk_id],
                spec.server_id,
                lambda done, before=index: progress((before + done) / (len(wanted) + 1)),  # type: ignore[misc]
                keep_mark=True,
                made=made,
            )
            await self._attachments.create(vm, vdi, bootable=disk is spec.root)

    async def _adopt(self, vdi: str, spec: ServerSpec, disk_id: str) -> None:
        context, root = self._context, spec.root
        await context.put_tags("VDI", vdi, tags.for_disk(context.cluster, disk_id, spec.server_id))
        if disk_id == root.disk_id:
            await context.call("VDI.set_name_label", vdi, root.name)
            if root.size_bytes > int(await context.call("VDI.get_virtual_size", vdi)):
                await context.task("VDI.resize", vdi, root.size_bytes)

    async def _finish(self, spec: ServerSpec) -> None:
        """The marks off: the disks', then the VM's."""
        context = self._context
        picture = await context.now()
        vms = context.vms_of(picture, spec.server_id)
        if not vms or tags.build_of(vms[0][1], context.cluster) != spec.build:
            raise Superseded(f"pool {context.name}: another build of server {spec.server_id} took over")
        for _, vdi in await self._own_disks(vms[0][0]):
            await self._disks.unmark(vdi)
        await context.put_tags("VM", vms[0][0], {}, drop=(tags.UNFINISHED,))
