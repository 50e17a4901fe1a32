"""Settling one account or container on which devices differ: its own state, and its rows.

The decision is in catalog_plan.py. The order of doing: a state that is alive is joined before rows are sent, so that they
find their catalog; one that is deleted is joined after, since a device refuses to delete what has live rows. Rows are
compared by the catalog's digest of them all, and only where that differs listed side by side.

A catalog that is being written to differs between any two moments at which replicas are asked. It is left alone while its
latest row is seconds old, unless the difference has lasted: then it is done all the same, row by row, leaving out the young.

A device may have the rows of a catalog and have lost the catalog's own record, its name with it, to rot: then it says
nothing of it, though its digest shows that something is there. It is given the state that the others have; from then on it
is a replica, or a handoff, like any other.

Invariants: as in objects.py, a handoff's rows and catalogs are removed as exactly what was listed, after every primary has
confirmed each of them; a catalog whose fate is in doubt stays as it is until all primaries have been heard.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import structlog

from replicator.catalog_plan import (
    CatalogPlan,
    CatalogState,
    Verdict,
    buried,
    latest_change,
    plan_catalog,
    plan_row,
    put_row,
    restored,
    row_version,
)
from replicator.differences import Concerned
from replicator.listing import gather, list_rows
from replicator.objects import Manner, Outcome
from replicator.peers import Peers, submit_all
from replicator.throttle import Throttle
from replicator.transfer import Moved
from storage_node.operations import (
    Answer,
    Catalog,
    ForgetCatalog,
    ForgetRow,
    FoundCatalog,
    GetCatalog,
    JoinCatalog,
    Operation,
    Row,
    Status,
)
from storage_node.timestamp import Clock

ROW_BYTES: Final = 100
"""What a row costs on the wire beside its name and payload, about."""

log = structlog.get_logger("replicator")


class CatalogSettler:
    """Makes the devices of `peers` agree on accounts and containers. `clock` stamps catalogs that are restored."""

    def __init__(self, peers: Peers, throttle: Throttle, moved: Moved, clock: Clock) -> None:
        self._peers = peers
        self._throttle = throttle
        self._moved = moved
        self._clock = clock

    async def settle(
        self,
        space: int,
        hash_: bytes,
        key: bytes,
        concerned: Concerned,
        manner: Manner,
        nameless: Collection[int] = (),
    ) -> Outcome:
        """Settle one catalog, whose name those devices have lost. Does not raise for what devices do."""
        answers = await gather(self._peers, concerned.everyone, GetCatalog(space, hash_, key))
        held = {device: answer.catalog for device, answer in answers.items() if isinstance(answer, FoundCatalog)}
        plan = plan_catalog(held, concerned.primaries)
        if plan is None:
            return Outcome()
        found = [catalog for catalog in held.values() if catalog is not None]
        if manner.patient and max(map(latest_change, found)) >= manner.before:
            return Outcome(young=1)
        if not plan.lacking and not plan.rows_differ and not plan.surplus and not nameless:
            return Outcome()
        errand = _Errand(self, space, hash_, key, held, concerned, manner, frozenset(nameless))
        if await errand.run(plan):
            return Outcome(settled=1)
        return Outcome(left=1)


class _Errand:
    """One catalog being settled."""

    def __init__(
        self,
        settler: CatalogSettler,
        space: int,
        hash_: bytes,
        key: bytes,
        held: dict[int, Catalog | None],
        concerned: Concerned,
        manner: Manner,
        nameless: frozenset[int],
    ) -> None:
        self._peers = settler._peers
        self._throttle = settler._throttle
        self._moved = settler._moved
        self._clock = settler._clock
        self._space = space
        self._hash = hash_
        self._key = key
        self._held = held
        self._primaries = concerned.primaries
        self._manner = manner
        self._answered = tuple(held)
        self._nameless = nameless.intersection(held)

    async def run(self, plan: CatalogPlan) -> bool:
        """Carry out a plan; whether all is settled now."""
        verdict = plan.verdict
        if verdict is Verdict.WAIT:
            return False
        if verdict is Verdict.ASK_ROWS:
            alive = await self._any_row_alive()
            if alive is None:
                return False
            verdict = Verdict.RESTORE if alive else Verdict.DELETE
        lacking = set(plan.lacking)
        state = plan.joined
        burial = 0
        if verdict is Verdict.RESTORE:
            state, lacking = self._restored(), set(self._primaries).intersection(self._held)
        elif verdict is Verdict.DELETE or (not state.life.live and self._any_row_counted()):
            burial = state.life.deleted
        late = lacking.intersection(plan.opponents) if not state.life.live else set()
        done = await self._join(state, (lacking | self._nameless) - late)
        rows_home = await self._settle_rows(burial) if plan.rows_differ or plan.surplus or burial else True
        done = await self._join(state, late) and done
        home = done and rows_home and set(self._primaries).issubset(self._held) and not self._nameless
        if plan.surplus:
            return home and await self._forget_catalog(plan)
        return home

    def _restored(self) -> CatalogState:
        found = [catalog for catalog in self._held.values() if catalog is not None]
        for catalog in found:
            self._clock.observe(max(catalog.deleted_timestamp, latest_change(catalog)))
        log.warning("a deletion that failed half-way is undone", catalog=self._key.decode("utf-8", "replace"))
        return restored(found, self._clock.stamp())

    async def _join(self, state: CatalogState, devices: set[int]) -> bool:
        """Give devices the state; whether all have it now."""
        operation = JoinCatalog(self._space, self._hash, self._key, *state.life, state.meta)
        answers = await self._send({device: [operation] for device in devices}, len(self._key) + ROW_BYTES)
        self._moved.catalogs += sum(answer.status == Status.APPLIED for _, _, answer in answers)
        return all(answer.status == Status.APPLIED for _, _, answer in answers)

    # -------------------------------------------------------------------------------------------------------------- rows

    async def _any_row_alive(self) -> bool | None:
        """Whether a row is alive once those of all replicas are joined; None: not all primaries have said."""
        holders = self._holders()
        async for beside, answered in list_rows(self._peers, self._space, self._hash, self._key, holders):
            if len(answered) < len(holders):
                return None
            for held in beside.values():
                if not max(held.values(), key=row_version).deleted:
                    return True
        return False

    def _any_row_counted(self) -> bool:
        """Whether a replica of a deleted catalog has live rows all the same: it had lost the catalog's name before."""
        return any(catalog is not None and catalog.row_count for catalog in self._held.values())

    def _holders(self) -> tuple[int, ...]:
        return tuple(device for device, catalog in self._held.items() if catalog is not None)

    async def _settle_rows(self, burial: int) -> bool:
        """Bring every row to every primary (dead, with a `burial`), and away from others; whether all are home."""
        home = True
        holders = self._holders()
        async for beside, answered in list_rows(self._peers, self._space, self._hash, self._key, holders):
            silent = set(holders) - set(answered)
            if silent:
                return False
            home = await self._settle_page(beside, burial) and home
        return home

    async def _settle_page(self, beside: Mapping[bytes, Mapping[int, Row]], burial: int) -> bool:
        sends: dict[int, list[Operation]] = {}
        waits: dict[bytes, set[int]] = {}
        surplus: dict[bytes, tuple[tuple[int, Row], ...]] = {}
        size_bytes = 0
        home = True
        for name, held in beside.items():
            plan = plan_row(held, self._answered, self._primaries)
            newest, lacking = plan.newest, plan.lacking
            if burial and not newest.deleted:
                newest, lacking = buried(newest, burial), tuple(set(self._primaries).intersection(self._answered))
            elif max(newest.timestamp, newest.sub_timestamp) >= self._manner.before and lacking:
                home = False
                continue
            operation = put_row(self._space, self._hash, newest)
            for device in lacking:
                sends.setdefault(device, []).append(operation)
                size_bytes += ROW_BYTES + len(name) + len(newest.payload)
            waits[name] = set(self._primaries) - (set(plan.confirmed) - set(lacking))
            if plan.surplus:
                surplus[name] = plan.surplus
        for device, operation_, answer in await self._send(sends, size_bytes):
            if answer.status == Status.APPLIED:
                self._moved.rows += 1
                waits[operation_.name].discard(device)  # type: ignore[union-attr]
        if surplus:
            home = await self._forget_rows(surplus, waits) and home
        return home and not any(waits.values())

    async def _forget_rows(
        self, surplus: Mapping[bytes, tuple[tuple[int, Row], ...]], waits: Mapping[bytes, set[int]]
    ) -> bool:
        forgets: dict[int, list[Operation]] = {}
        for name, copies in surplus.items():
            if not waits[name]:
                for device, row in copies:
                    forget = ForgetRow(self._space, self._hash, name, row.timestamp, row.sub_timestamp)
                    forgets.setdefault(device, []).append(forget)
        answers = await self._send(forgets, 0)
        return all(answer.status in (Status.APPLIED, Status.MISSING) for _, _, answer in answers)

    async def _forget_catalog(self, plan: CatalogPlan) -> bool:
        """Remove the handoffs' catalogs, that have lost their rows and are as they were listed."""
        forgets: dict[int, list[Operation]] = {}
        for device in plan.surplus:
            catalog = self._held[device]
            if catalog is not None:
                times = catalog.created_timestamp, catalog.deleted_timestamp, catalog.touched_timestamp
                forget = ForgetCatalog(self._space, self._hash, self._key, *times, dict(catalog.meta))
                forgets[device] = [forget]
        answers = await self._send(forgets, 0)
        gone = sum(answer.status in (Status.APPLIED, Status.MISSING) for _, _, answer in answers)
        self._moved.forgotten += gone
        return gone == len(plan.surplus)

    async def _send(
        self, operations: Mapping[int, list[Operation]], size_bytes: int
    ) -> list[tuple[int, Operation, Answer]]:
        """Send each device its operations at once, and wait for all answers."""
        for device in operations if size_bytes else ():
            await self._throttle.take(device, size_bytes // len(operations))
        requests = [(device, operation) for device, batch in operations.items() for operation in batch]
        answers = await submit_all([(self._peers.by_id[device], operation) for device, operation in requests])
        self._moved.bytes += size_bytes
        return [(*request, answer) for request, answer in zip(requests, answers, strict=True)]
