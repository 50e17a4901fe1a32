"""From a request to a claim: choose, commit, and where another scheduler was first, choose again.

Problem: the picture that a scheduler chooses by may be old. Refusing on an old picture is wrong, and so is trying for
ever.

Idea: the choice is offered to the claims, which look again. If they refuse, what they know of that host, its SRs and
the group is taken over into the picture, and the next alternate is tried; when the alternates are used up, a new choice
is made. There is no valid host only when a picture that was read a moment ago says so. Each attempt costs a bounded
amount, and there are few.

One idempotency key is offered with every attempt, so at most one of them claims. Who calls again after a crash gets
what was claimed then, wherever the choice would fall now: the claims compare what is asked and not where.

Several threads may book by one picture: it is looked at and changed under `lock`, and claims are asked without it, so
that a commit which waits for a disk holds up nobody's choice.

Invariants: after an exception nothing is claimed by this call; the picture only ever takes over what the claims say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from scheduler.claims.claim import Batch, Change, Claim, Claims, DiskShare, Guard, HostShare, Role
from scheduler.errors import Conflict, KeyReused, NoValidHost, NoValidSr
from scheduler.placement import reasons
from scheduler.placement.inventory import Inventory
from scheduler.placement.moves import Move
from scheduler.placement.place import DEFAULTS, place, place_volume
from scheduler.placement.placement import Candidate, DiskPlacement
from scheduler.placement.request import Disk, ServerRequest, VolumeRequest
from scheduler.placement.settings import PlacementSettings

ROUNDS_MAX = 8
"""How often a choice is made for one request before it is given up: each round tries a host and its alternates."""


@dataclass(frozen=True, slots=True)
class Booked:
    """A server or volume that has its place.

    host_id   of a server, None for a volume
    disks     where each disk is or goes, in the request's order
    tries     how many hosts the claims were asked for; more than 1 says that others were faster
    """

    host_id: str | None
    disks: tuple[DiskPlacement, ...]
    change: Change
    tries: int = 1


class Booking:
    """One scheduler's picture over claims that others may share. Thread-safe with a `lock`, a reentrant one, under which
    whoever else uses the picture does so; without, as little as the picture is."""

    def __init__(
        self,
        inventory: Inventory,
        claims: Claims,
        settings: PlacementSettings = DEFAULTS,
        *,
        seed: int = 0,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self.inventory = inventory
        self.claims = claims
        self.settings = settings
        self._seed = seed
        self._lock: AbstractContextManager[object] = lock if lock is not None else nullcontext()

    def read(self) -> None:
        """Take over all that is claimed: at start, and after a new inventory."""
        self.inventory.load(self.claims.all(), *self.claims.usage())

    def book(self, request: ServerRequest, key: str, role: Role = Role.HELD, *, guard: Guard | None = None) -> Booked:
        """Choose and claim. `role` TARGET claims where a server that holds a claim moves to; `guard` as in `Claims.commit`.

        NoValidHost, QuotaExceeded, KeyReused, KeySpent, ClaimStateError; Conflict if others were faster every time.
        """
        tries = 0
        fresh = False
        last: Conflict | None = None
        for round_ in range(ROUNDS_MAX):
            try:
                with self._lock:
                    placement = place(self.inventory, request, self.settings, seed=self._seed + round_)
            except NoValidHost:
                made = self._made(request, key, role, guard)
                if made is not None:
                    return self._booked(request, made, tries)
                if fresh:
                    raise
                self._read_for(request)
                fresh = True
                continue
            for candidate in (placement.chosen, *placement.alternates):
                tries += 1
                try:
                    change = self.claims.commit(self._batch(request, candidate, key, role), guard=guard)
                except Conflict as error:
                    if not error.retry:
                        raise
                    last = error
                    self._learn(candidate.host_id, candidate.disks, request)
                else:
                    return self._booked(request, change, tries)
            fresh = False
        raise self._contended(f"server {request.server_id}", tries, last)

    def book_volume(self, request: VolumeRequest, key: str, *, guard: Guard | None = None) -> Booked:
        """Choose an SR for a volume alone and claim it.

        NoValidSr, QuotaExceeded, KeyReused, KeySpent, ClaimStateError; Conflict if others were faster every time.
        """
        tries = 0
        fresh = False
        last: Conflict | None = None
        for round_ in range(ROUNDS_MAX):
            try:
                with self._lock:
                    placement = place_volume(self.inventory, request, self.settings, seed=self._seed + round_)
            except NoValidSr:
                made = self._made(request, key, Role.HELD, guard)
                if made is not None:
                    return self._booked(request, made, tries)
                if fresh:
                    raise
                usage = self.claims.usage()
                with self._lock:
                    self.inventory.refresh(*usage)
                fresh = True
                continue
            for sr_id in (placement.sr_id, *placement.alternates):
                tries += 1
                try:
                    change = self.claims.commit(volume_batch(request, sr_id, key), guard=guard)
                except Conflict as error:
                    last = error
                    self._learn(None, (DiskPlacement(request.disk.disk_id, sr_id),), None)
                else:
                    return self._booked(request, change, tries)
            fresh = False
        raise self._contended(f"volume {request.disk.disk_id}", tries, last)

    def book_together(self, moves: Sequence[Move], key: str, *, guard: Guard | None = None) -> Change:
        """Claim where servers that move together go, for all of them or for none; where, a plan has said.

        Conflict if it is not so any more, KeyReused, KeySpent, ClaimStateError if one of them is moving already.
        """
        with self._lock:
            batches = [batch_for(self.inventory, move.server.request, move.to, key, Role.TARGET) for move in moves]
        inside = {move.server.request.server_id for move in moves}
        whole = Batch(
            key,
            tuple(claim for batch in batches for claim in batch.claims),
            tuple(dict.fromkeys(name for batch in batches for name in batch.same_host_as if name not in inside)),
            tuple(dict.fromkeys(name for batch in batches for name in batch.different_host_from)),
        )
        change = self.claims.commit(whole, guard=guard)
        with self._lock:
            self.inventory.apply(change)
        return change

    def _batch(self, request: ServerRequest, candidate: Candidate, key: str, role: Role) -> Batch:
        with self._lock:
            return batch_for(self.inventory, request, candidate, key, role)

    def _made(self, request: ServerRequest | VolumeRequest, key: str, role: Role, guard: Guard | None) -> Change | None:
        """What this request claimed under that key before, None if the key claimed nothing. KeyReused, KeySpent.

        The claims compare what is asked when a batch is committed: so the request is offered once more, for the place that
        it has.
        """
        made = self.claims.made(key)
        if made is None:
            return None
        host_id = _host_in(made)
        disks = _disks_in(made, _disks_of(request))
        if disks is None or (host_id is None) is isinstance(request, ServerRequest):
            raise KeyReused(f"idempotency key {key} was used for another claim; take a new key")
        if isinstance(request, VolumeRequest):
            return self.claims.commit(volume_batch(request, disks[0].sr_id, key), guard=guard)
        assert host_id is not None
        return self.claims.commit(self._batch(request, Candidate(host_id, 0.0, disks), key, role), guard=guard)

    def _booked(self, request: ServerRequest | VolumeRequest, change: Change, tries: int) -> Booked:
        with self._lock:
            self.inventory.apply(change)
        disks = _disks_in(change, _disks_of(request))
        assert disks is not None, "a disk was claimed nowhere"
        return Booked(_host_in(change), disks, change, tries)

    def _learn(self, host_id: str | None, disks: tuple[DiskPlacement, ...], request: ServerRequest | None) -> None:
        """Take over what the claims say of what was just refused."""
        ids = [disk.sr_id for disk in disks]
        if host_id is not None:
            ids.append(host_id)
        hosts, srs = self.claims.usage_of(ids)
        known = {usage.limit.host_id for usage in hosts} | {usage.limit.sr_id for usage in srs}
        with self._lock:
            self.inventory.refresh(hosts, srs)
            self.inventory.close(name for name in ids if name not in known)
        if request is not None:
            self._read_company(request)

    def _read_for(self, request: ServerRequest) -> None:
        """Take over all that a choice depends on."""
        usage = self.claims.usage()
        with self._lock:
            self.inventory.refresh(*usage)
        self._read_company(request)

    def _read_company(self, request: ServerRequest) -> None:
        """Take over where the group is, and the servers that the request names."""
        if request.membership is not None:
            group_id = request.membership.group_id
            members = self.claims.members(group_id)
            with self._lock:
                self.inventory.refresh_members(group_id, members)
        for server_id in (*request.same_host_as, *request.different_host_from):
            held = self.claims.of(server_id)
            with self._lock:
                self.inventory.refresh_owner(server_id, held)

    @staticmethod
    def _contended(what: str, tries: int, last: Conflict | None) -> Conflict:
        return Conflict(
            f"{what}: others were faster at each of {tries} tries, the last time because {last}; try again",
            kind=reasons.CONTENDED,
            resource=last.resource if last is not None else "",
        )


def _disks_of(request: ServerRequest | VolumeRequest) -> tuple[Disk, ...]:
    return request.disks if isinstance(request, ServerRequest) else (request.disk,)


def _host_in(change: Change) -> str | None:
    """The host of the server that was claimed for, None if it was a volume alone."""
    return next((claim.host.host_id for claim in change.claims if claim.host is not None), None)


def _disks_in(change: Change, disks: Iterable[Disk]) -> tuple[DiskPlacement, ...] | None:
    """Where these disks are after that change, None if one of them is nowhere."""
    where = {disk.disk_id: disk.sr_id for claim in change.claims for disk in claim.disks}
    placed = []
    for disk in disks:
        sr_id = where.get(disk.disk_id) or disk.sr_id
        if sr_id is None:
            return None
        placed.append(DiskPlacement(disk.disk_id, sr_id, disk.sr_id if disk.sr_id != sr_id else None))
    return tuple(placed)


def batch_for(
    inventory: Inventory, request: ServerRequest, candidate: Candidate, key: str, role: Role = Role.HELD
) -> Batch:
    """The claims of a server on that host: its own with its new disks, and one for each volume that is new or moves.

    With `role` TARGET the server moves there, and its own disks are in the claim if they move. Disks that stay are
    claimed already.
    """
    where = {disk.disk_id: disk for disk in candidate.disks}
    own: list[DiskShare] = []
    volumes: list[Claim] = []
    for disk in request.disks:
        goes = where[disk.disk_id]
        if disk.sr_id is not None and goes.moves_from is None:
            continue
        share = DiskShare(disk.disk_id, goes.sr_id, disk.size_bytes)
        if disk.volume:
            volume_role = Role.HELD if disk.sr_id is None else Role.TARGET
            volumes.append(Claim(disk.disk_id, request.project, None, (share,), None, volume_role))
        else:
            own.append(share)
    host = HostShare(candidate.host_id, request.flavor.memory_mib, request.flavor.vcpus)
    server = Claim(request.server_id, request.project, host, tuple(own), request.membership, role)
    return Batch(
        key,
        (server, *volumes),
        request.same_host_as,
        request.different_host_from,
        inventory.generations(candidate.host_id, [disk.sr_id for disk in candidate.disks]),
    )


def volume_batch(request: VolumeRequest, sr_id: str, key: str) -> Batch:
    """The claim of a volume alone on that SR."""
    share = DiskShare(request.disk.disk_id, sr_id, request.disk.size_bytes)
    return Batch(key, (Claim(request.disk.disk_id, request.project, None, (share,)),))
