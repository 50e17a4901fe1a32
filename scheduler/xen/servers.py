"""The life of a server in a pool once it is made: powered, named, removed. `building` makes it.

Starting is three calls, because a VM that is on the wrong host should not have run a single instruction of its guest:
`VM.start_on` paused, a look at where it is, `VM.unpause`.

Removing goes from the VM to its disks: a disk without VM is found again by its tags, a VM without disks would be a
server that looks whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from scheduler.hypervisor import (
    Gone,
    PowerAction,
    Refused,
    TryAgain,
    VmFacts,
    WrongState,
)
from scheduler.xen import tags
from scheduler.xen.arrivals import Arrivals
from scheduler.xen.context import Context
from scheduler.xen.disks import Disks
from scheduler.xen.errors import NoAnswer
from scheduler.xen.facts import is_arriving, refs, text, vbds_of, vm_facts
from scheduler.xen.picture import Picture
from scheduler.xen.tags import Record
from scheduler.xen.undo import undoing

CLEAN_S_MAX = 300.0
"""How long a guest has to shut down or reboot when it is asked to; the pool's own limit is 20 minutes."""
UNWILLING = frozenset({"VM_SHUTDOWN_TIMEOUT", "VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT", "VM_SUSPEND_TIMEOUT"})


class Servers:
    """VMs of one pool."""

    def __init__(self, context: Context, disks: Disks, arrivals: Arrivals) -> None:
        self._context = context
        self._disks = disks
        self._arrivals = arrivals

    async def find(self, server_id: str) -> VmFacts | None:
        """The server's VM, a whole one if there is one."""
        picture = await self._context.now()
        found = self._context.vms_of(picture, server_id)
        if not found and await self._arrivals.welcome(picture):
            picture = await self._context.now()
            found = self._context.vms_of(picture, server_id)
        return vm_facts(picture, found[0][1], self._context.cluster) if found else None

    async def facts(self, server_id: str) -> VmFacts:
        """Of its whole VM. Raises Gone."""
        picture = await self._context.now()
        return vm_facts(picture, self._context.vm(picture, server_id)[1], self._context.cluster)

    async def destroy(self, server_id: str) -> None:
        """See `Hypervisor.destroy_server`."""
        await self.remove(server_id, snapshots=True, whole=True)

    async def remove(
        self, server_id: str, build: int | None = None, *, snapshots: bool = False, whole: bool = False
    ) -> None:
        """Remove a server's VMs (of one build, or all) and its own disks; whole ones only if asked to.

        VMs go first: the disks are found again by their tags, should this be interrupted.
        """
        context = self._context
        picture = await context.now()
        mine = [
            (ref, vm)
            for ref, vm in context.vms_of(picture, server_id)
            if (build is None or tags.build_of(vm, context.cluster) <= build)
            and (whole or tags.is_unfinished(vm, context.cluster))
        ]
        kept = [vm for ref, vm in context.vms_of(picture, server_id) if ref not in dict(mine)]
        if snapshots:
            mine += context.snapshots_of(picture, server_id)
        for ref, vm in mine:
            await self.remove_vm(picture, ref, vm)
        if not kept:
            picture = await context.now()
            await self._disks.destroy(self._disks.owned_by(picture, server_id))

    async def remove_by_uuid(self, uuid: str) -> None:
        """See `Hypervisor.remove_vm`."""
        context = self._context
        picture = await context.now()
        for ref, vm in list(picture.table("VM").items()):
            if text(vm, "uuid") == uuid:
                if not tags.server_of(vm, context.cluster):
                    raise Refused(f"pool {context.name}: VM {text(vm, 'name_label')!r} is not Ringstead's")
                if text(vm, "power_state") not in ("Halted", "Suspended"):
                    raise WrongState(f"pool {context.name}: VM {uuid} runs")
                if is_arriving(picture, vm) or vm.get("current_operations"):
                    raise TryAgain(f"pool {context.name}: something is going on with VM {uuid}")
                await self.remove_vm(picture, ref, vm)

    async def remove_vm(self, picture: Picture, ref: str, vm: Record) -> None:
        """Remove a VM, or a snapshot, with the disks that are its own; volumes stay.

        A clone's or snapshot's disks that nobody has tagged yet are tagged first, so that they are found again.
        """
        context, cluster = self._context, self._context.cluster
        server_id, own = tags.server_of(vm, cluster), []
        for _, vbd in vbds_of(picture, vm):
            vdi_ref = text(vbd, "VDI")
            vdi = picture.record("VDI", vdi_ref)
            if vdi is None or any(text(other, "VM") != ref for _, other in self._disks.attachments(picture, vdi)):
                continue
            made_with_it = tags.is_snapshot(vm) or tags.is_unfinished(vm, cluster)
            if tags.owner_of(vdi, cluster) == server_id:
                own.append(vdi_ref)
            elif made_with_it and not tags.disk_of(vdi, cluster):
                marks = {tags.CLUSTER: cluster, tags.SERVER: server_id, tags.UNFINISHED: "true"}
                await context.put_tags("VDI", vdi_ref, marks)
                own.append(vdi_ref)
        try:
            if not tags.is_snapshot(vm):
                await self.cut(ref)
            await context.settle("VM", ref, lambda: context.task("VM.destroy", ref), lambda _record: False)
        except Gone:
            pass
        if picture.record("VDI", suspended := text(vm, "suspend_VDI")) is not None:
            own.append(suspended)
        await self._disks.destroy(own)

    async def cut(self, ref: str) -> None:
        """Halt a VM, whatever it does."""
        record = await self._context.quiet("VM", ref)
        if text(record, "power_state") != "Halted":
            await self._to(ref, "VM.hard_shutdown", "Halted")

    async def power(self, server_id: str, action: PowerAction, host: str = "") -> VmFacts:
        """See `Hypervisor.power`."""
        picture = await self._context.now()
        ref, vm = self._context.vm(picture, server_id)
        state = text(vm, "power_state")
        host_ref = self._context.by_uuid(picture, "host", host)[0] if host else ""
        try:
            await self._power(ref, state, action, host_ref)
        except WrongState as error:
            if error.code in UNWILLING:
                raise TryAgain(str(error), error.code) from None
            raise
        return await self.facts(server_id)

    async def _power(self, ref: str, state: str, action: PowerAction, host_ref: str) -> None:
        match action:
            case PowerAction.START:
                await self._start(ref, state, host_ref)
            case PowerAction.SHUT_DOWN if state != "Halted":
                await self._to(ref, "VM.clean_shutdown", "Halted", timeout_s=CLEAN_S_MAX)
            case PowerAction.CUT if state != "Halted":
                await self._to(ref, "VM.hard_shutdown", "Halted")
            case PowerAction.REBOOT:
                await self._context.task("VM.clean_reboot", ref, timeout_s=CLEAN_S_MAX)
            case PowerAction.RESET:
                await self._context.task("VM.hard_reboot", ref)
            case PowerAction.PAUSE if state != "Paused":
                await self._to(ref, "VM.pause", "Paused")
            case PowerAction.UNPAUSE if state != "Running":
                await self._to(ref, "VM.unpause", "Running")
            case PowerAction.SUSPEND if state != "Suspended":
                await self._to(ref, "VM.suspend", "Suspended")
            case PowerAction.RESUME if state != "Running":
                if host_ref:
                    await self._to(ref, "VM.resume_on", "Running", host_ref, False, False)
                else:
                    await self._to(ref, "VM.resume", "Running", False, False)

    async def _to(self, ref: str, method: str, state: str, *args: str | bool, timeout_s: float | None = None) -> None:
        """Bring a VM into a state by a task, looking before repeating."""
        await self._context.settle(
            "VM",
            ref,
            lambda: self._context.task(method, ref, *args, timeout_s=timeout_s),
            lambda record: text(record, "power_state") == state,
        )

    async def _start(self, ref: str, state: str, host_ref: str) -> None:
        if state == "Running":
            return
        if state == "Suspended":
            raise WrongState(f"pool {self._context.name}: the server is suspended: resume it, or cut its power first")
        async with undoing() as undo:
            if state == "Halted":
                undo.push("a start", lambda: self.cut(ref))
                await self._start_paused(ref, host_ref)
                record = await self._context.call("VM.get_record", ref)
                if host_ref and text(record, "resident_on") != host_ref:
                    raise TryAgain(f"pool {self._context.name}: the server came up on another host than it was sent to")
            await self._to(ref, "VM.unpause", "Running")
            undo.forget()

    async def _start_paused(self, ref: str, host_ref: str) -> None:
        if host_ref:
            await self._to(ref, "VM.start_on", "Paused", host_ref, True, False)
        else:
            await self._to(ref, "VM.start", "Paused", True, False)

    async def set_name(self, server_id: str, name: str) -> None:
        """See `Hypervisor.set_name`."""
        ref, _ = self._context.vm(await self._context.now(), server_id)
        await self._repeatable(lambda: self._context.call("VM.set_name_label", ref, name))

    async def _repeatable(self, act: Callable[[], Awaitable[object]]) -> None:
        """A call that can be made twice."""
        try:
            await act()
        except NoAnswer:
            await act()

    async def console_url(self, server_id: str) -> str:
        """See `Hypervisor.console_url`."""
        picture = await self._context.now()
        _, vm = self._context.vm(picture, server_id)
        if text(vm, "power_state") not in ("Running", "Paused"):
            raise WrongState(f"pool {self._context.name}: the server does not run, so it has no console")
        consoles = [picture.record("console", ref) for ref in refs(vm, "consoles")]
        consoles.sort(key=lambda console: text(console, "protocol") != "rfb")
        for console in consoles:
            if location := text(console, "location"):
                return location
        raise TryAgain(f"pool {self._context.name}: the server's console is not there yet")
