"""Moving servers: in a pool by memory alone, with their disks in a pool or to another one.

Three kinds. `VM.pool_migrate` for a running VM whose disks both hosts reach. `VM.migrate_send` for disks that have to
come along; the receiving host gives leave (`host.migrate_receive`), also within one pool. A halted VM without disks
to move goes nowhere: it has no host.

Before a move with disks `VM.assert_can_migrate` is asked, so that what can be known to fail fails before a byte is
copied. A move runs as a task; cancelling the caller cancels it and waits until the pool has cleaned up. When its
outcome is unknown, the VM is asked where it is.

The ticket holds a session of the receiving pool. When that pool does not take it, the sending one passes the error on
as it came, and it looks as if the caller's own session were lost. A new login is tried first; when that does not help,
the move has failed, at this destination, and another host may do.

What the receiving pool calls its SRs and networks (references) is of no meaning in the sending one, and the caller
knows uuids only. So the ticket carries the receiver's references beside the pool's own words, under keys that are
taken off before it is sent.

A move within the pool may lose the disks' tags, depending on the pool's version: they are put back. What a move to
another pool needs beyond that is in `arrivals`.
"""

from __future__ import annotations

from scheduler.hypervisor import (
    Gone,
    HypervisorError,
    Migration,
    MigrationFailed,
    MigrationTicket,
    NextHost,
    Progress,
    Refused,
    WrongState,
)
from scheduler.xen.arrivals import Arrivals
from scheduler.xen.context import Context
from scheduler.xen.errors import CallFailed, Cancelled, NoAnswer, SessionLost
from scheduler.xen.facts import attached_hosts, refs, text, uuid_of, vbds_of
from scheduler.xen.picture import Picture
from scheduler.xen.session import Value
from scheduler.xen.tags import Record
from scheduler.xen.tasks import nothing

OURS = "ringstead "
"""What the keys of a ticket begin with that are not the pool's."""


class Migrations:
    """Moves of servers out of, within, and into one pool."""

    def __init__(self, context: Context, arrivals: Arrivals) -> None:
        self._context = context
        self._arrivals = arrivals

    async def prepare_receive(self, host: str, network: str = "") -> MigrationTicket:
        """See `Hypervisor.prepare_receive`."""
        context = self._context
        picture = await context.now()
        host_ref, record = context.by_uuid(picture, "host", host)
        over = context.network(picture, network) if network else self._management(picture, record)
        try:
            token = await context.call("host.migrate_receive", host_ref, over, {})
        except SessionLost as error:
            raise _session_refused(context.name, host, error) from None
        if not isinstance(token, dict):
            raise NoAnswer(f"pool {context.name}: answered host.migrate_receive with no map")
        names = {f"{OURS}SR {text(sr, 'uuid')}": ref for ref, sr in picture.table("SR").items()}
        names |= {f"{OURS}network {text(net, 'uuid')}": ref for ref, net in picture.table("network").items()}
        pool = next(iter(picture.table("pool").values()), {})
        own = {str(key): str(value) for key, value in token.items()}
        return MigrationTicket(pool=text(pool, "uuid"), host=host, token={**own, **names})

    def _management(self, picture: Picture, host: Record) -> str:
        for ref in refs(host, "PIFs"):
            pif = picture.record("PIF", ref)
            if pif is not None and pif.get("management") is True:
                return text(pif, "network")
        raise NextHost(f"pool {self._context.name}: host {text(host, 'name_label')} has no management network")

    async def migrate(self, server_id: str, migration: Migration, progress: Progress = nothing) -> None:
        """See `Hypervisor.migrate`."""
        context = self._context
        picture = await context.now()
        ref, vm = context.vm(picture, server_id)
        pool = next(iter(picture.table("pool").values()), {})
        ticket = migration.ticket
        inside = ticket is None or ticket.pool == text(pool, "uuid")
        if inside and self._is_there(picture, ref, migration):
            return
        try:
            if inside and not migration.disks:
                await self._move(picture, ref, vm, migration.host, progress)
            else:
                await self._send(picture, ref, vm, migration, inside, progress)
        except (Cancelled, CallFailed) as error:
            raise MigrationFailed(str(error), error.code) from None
        except SessionLost as error:
            raise _session_refused(context.name, migration.host, error) from None

    def _is_there(self, picture: Picture, vm: str, migration: Migration) -> bool:
        """Whether a VM is where a move within the pool would bring it."""
        record = picture.record("VM", vm) or {}
        runs = text(record, "power_state") in ("Running", "Paused")
        if runs and uuid_of(picture, "host", text(record, "resident_on")) != migration.host:
            return False
        for disk_id, sr in migration.disks.items():
            vdi = self._context.find_disk(picture, disk_id)
            if vdi is None or uuid_of(picture, "SR", text(vdi[1], "SR")) != sr:
                return False
        return runs or bool(migration.disks)

    async def _move(self, picture: Picture, ref: str, vm: Record, host: str, progress: Progress) -> None:
        """Within the pool, with the disks where they are."""
        context = self._context
        host_ref, _ = context.by_uuid(picture, "host", host)
        for _, vbd in vbds_of(picture, vm):
            sr = picture.record("SR", text(picture.record("VDI", text(vbd, "VDI")), "SR"))
            if sr is not None and host_ref not in attached_hosts(picture, sr):
                raise NextHost(f"pool {context.name}: host {host} does not reach SR {text(sr, 'name_label')}")
        state = text(vm, "power_state")
        if state in ("Halted", "Suspended"):
            await context.call("VM.set_affinity", ref, host_ref)
            return
        if state != "Running":
            raise WrongState(f"pool {context.name}: the server is {state.lower()}; only running ones move")
        await context.settle(
            "VM",
            ref,
            lambda: context.task("VM.pool_migrate", ref, host_ref, {"live": "true"}, progress=progress),
            lambda record: text(record, "resident_on") == host_ref,
        )

    async def _send(
        self, picture: Picture, ref: str, vm: Record, migration: Migration, inside: bool, progress: Progress
    ) -> None:
        """With disks."""
        context, ticket = self._context, migration.ticket
        if ticket is None:
            raise Refused(f"pool {context.name}: a move with disks needs a ticket from the receiving host")
        written = self._arrivals.disk_tags(picture, vm)
        vdi_map = {
            context.disk(picture, disk_id)[0]: self._there(ticket, "SR", sr) for disk_id, sr in migration.disks.items()
        }
        vif_map = {} if inside else self._networks(picture, vm, migration, ticket)
        token = {key: value for key, value in ticket.token.items() if not key.startswith(OURS)}
        live = text(vm, "power_state") == "Running"
        arguments: tuple[Value, ...] = (ref, token, live, vdi_map, vif_map, {"force": "false"}, {})
        await context.call("VM.assert_can_migrate", *arguments)
        if not inside:
            await self._arrivals.give_passport(picture, ref, vm)
        try:
            await context.task("VM.migrate_send", *arguments, progress=progress)
        except NoAnswer:
            if not await self._arrived(ref, migration, inside):
                raise
        except HypervisorError:
            if not inside:
                await self._arrivals.take_passport(ref)
            raise
        if inside:
            await self._arrivals.put_back(await context.now(), ref, written)

    async def _arrived(self, ref: str, migration: Migration, inside: bool) -> bool:
        """Where the VM is, once nothing moves it any more. Raises MigrationFailed if it is where it was."""
        try:
            await self._context.quiet("VM", ref)
        except Gone:
            return not inside
        picture = await self._context.now()
        if inside and self._is_there(picture, ref, migration):
            return True
        raise MigrationFailed(f"pool {self._context.name}: the move broke off; the server is where it was")

    def _there(self, ticket: MigrationTicket, kind: str, uuid: str) -> str:
        ref = ticket.token.get(f"{OURS}{kind} {uuid}")
        if ref is None:
            raise Gone(f"{kind} {uuid} is not in the receiving pool")
        return ref

    def _networks(self, picture: Picture, vm: Record, migration: Migration, ticket: MigrationTicket) -> dict[str, str]:
        mapped = {}
        for ref in refs(vm, "VIFs"):
            uuid = uuid_of(picture, "network", text(picture.record("VIF", ref), "network"))
            if uuid not in migration.networks:
                raise Refused(f"pool {self._context.name}: the move names no network over there for {uuid}")
            mapped[ref] = self._there(ticket, "network", migration.networks[uuid])
        return mapped


def _session_refused(pool: str, host: str, error: SessionLost) -> MigrationFailed:
    return MigrationFailed(
        f"pool {pool}: host {host} cannot receive the server: the receiving pool refuses the session of the move"
        f" ({error.code})",
        error.code,
    )
