"""Random histories of claims, with every refusal and every acceptance held against the rule in plain Python.

Problem: a scheduler filters by a picture that is almost right, so what the claims must refuse seldom comes to them. A
broken check at commit can hide behind that for thousands of steps.

Idea: small clouds, nearly full; three schedulers that look again seldom, and to whom what others do is not told; and
besides them one that looks at nothing and claims at random, alone or two at the same moment. Hosts fail, shrink, come
back and are added; servers move, grow and go; keys are repeated, for the same and for something else. Each commit goes
through `Watched`, which knows from a model that is a dictionary what must become of it. After every step all claims are
summed up from nothing and held against limits, policies, quotas and the model.

`tests.scheduler.test_booking_histories` runs them, and shows that they find each check missing that is taken away.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from scheduler.booking import Booking
from scheduler.claims import write
from scheduler.claims.claim import (
    Batch,
    Change,
    Claim,
    DiskShare,
    HostLimit,
    HostShare,
    Quota,
    Role,
    SrLimit,
)
from scheduler.claims.memory import MemoryClaims
from scheduler.claims.sql import SqlClaims
from scheduler.claims.sums import wrong_sums
from scheduler.errors import ClaimStateError, Conflict, KeyReused, KeySpent, NoValidHost, QuotaExceeded
from scheduler.placement.inventory import Inventory
from scheduler.placement.request import Disk, Membership, Policy, ServerRequest, VolumeRequest
from scheduler.placement.settings import PlacementSettings
from tests.scheduler.claims.conftest import empty
from tests.scheduler.claims.naive import QUOTA, STATE, NaiveClaims, asked
from tests.scheduler.placement.naive import NaivePlacement
from tests.scheduler.placement.worlds import GIB, SELDOM, clouds, crowded_clouds, host, requests

SEED = 3
SCHEDULERS = 3
SERVER_IDS = st.sampled_from([f"s{number}" for number in range(12)])
VOLUME_IDS = st.sampled_from([f"v{number}" for number in range(4)])
WHICH = st.integers(0, SCHEDULERS - 1)
GROUPS = [Membership(f"g-{policy.value}", policy) for policy in Policy]
AFFINITY = Membership("g-affinity", Policy.AFFINITY)
QUOTAS = [Quota(), Quota(servers=2, disk_bytes=8 * GIB), Quota(vcpus=4), Quota(memory_mib=2048, volumes=1)]


@st.composite
def blind_batches(draw) -> Batch:
    """A server claimed on some host with some disk, whatever is there. Indexes and key are filled in by the history."""
    server_id = draw(SERVER_IDS)
    share = HostShare(str(draw(st.integers(0, 11))), draw(st.sampled_from([256, 1024, 2048])), draw(st.integers(1, 2)))
    gib = draw(st.sampled_from([0, 1, 6]))
    disk = DiskShare(f"{server_id}-disk0", str(draw(st.integers(0, 7))), gib * GIB)
    membership = draw(st.sampled_from([None, None, *GROUPS, GROUPS[0], GROUPS[1]]))
    project = draw(st.sampled_from(["red", "blue"]))
    company = draw(st.sampled_from(["", "", "", "", "", "different", "different", "same"]))
    other = (draw(SERVER_IDS.filter(lambda name: name != server_id)),) if company else ()
    claim = Claim(server_id, project, share, (disk,) if gib else (), membership)
    return Batch("?", (claim,), other if company == "same" else (), other if company == "different" else ())


FULL = st.lists(blind_batches(), min_size=3, max_size=10)


class Watched:
    """Claims whose commits are held against the plain rule; everything else is passed on."""

    def __init__(self, claims, history: Histories) -> None:
        self._claims = claims
        self._history = history

    def __getattr__(self, name: str):
        return getattr(self._claims, name)

    def commit(self, batch: Batch) -> Change:
        """Commit; AssertionError if what becomes of it is not what must."""
        history = self._history
        first = history.committed.get(batch.key)
        if first is not None:
            return self.commit_again(batch, first)
        against = history.naive_claims().against(batch)
        try:
            change = self._claims.commit(batch)
        except (Conflict, QuotaExceeded, ClaimStateError) as error:
            word = error.kind if isinstance(error, Conflict) else QUOTA if isinstance(error, QuotaExceeded) else STATE
            history.reached[word] += 1
            if word not in against:
                raise AssertionError(f"refused for {word}, but only {sorted(against)} is in the way") from error
            raise
        history.committed[batch.key] = batch
        assert not against, f"claimed against {' and '.join(sorted(against))}: {batch}"
        return change

    def commit_again(self, batch: Batch, first: Batch) -> Change:
        """A key that claimed before: it answers as it did, or refuses, and never claims."""
        before = self._claims.usage()
        try:
            change = self._claims.commit(batch)
        except (KeyReused, KeySpent) as error:
            self._history.reached[type(error).__name__] += 1
            if isinstance(error, KeyReused) and asked(batch) == asked(first):
                raise AssertionError(f"key {batch.key} is refused for the same") from error
            raise
        except (Conflict, QuotaExceeded, ClaimStateError) as error:
            raise AssertionError(f"key {batch.key} claimed before and is taken for new: {error}") from error
        finally:
            assert self._claims.usage() == before, f"key {batch.key} claimed twice"
        assert asked(batch) == asked(first), f"key {batch.key} answers for something else"
        self._history.reached["repeated"] += 1
        return change


class Histories(RuleBasedStateMachine):
    """See the module."""

    reached: ClassVar[Counter[str]] = Counter()
    """How often a commit was refused, by the word of the rule; over all histories of a run."""

    def open_claims(self) -> tuple:
        """The claims as each of the schedulers sees them."""
        return (MemoryClaims(lambda: 0.0),) * SCHEDULERS

    def wrong_sums(self) -> list[str]:
        """What the claims' own sums have wrong."""
        return []

    @initialize(cloud=st.one_of(crowded_clouds(), crowded_clouds(), clouds()), quota=st.sampled_from(QUOTAS), full=FULL)
    def begin(self, cloud, quota, full):
        """A small cloud, nearly full, and three schedulers that saw it empty."""
        self.hosts, self.srs = cloud
        self.claims = tuple(Watched(claims, self) for claims in self.open_claims())
        self.claims[0].set_limits(map(HostLimit.of, self.hosts), map(SrLimit.of, self.srs))
        self.quota = quota
        self.claims[0].set_quota("red", quota)
        self.schedulers = [self.new_scheduler(number) for number in range(SCHEDULERS)]
        self.model: dict[str, list[Claim]] = {}
        self.committed: dict[str, Batch] = {}
        self.requests: dict[str, ServerRequest] = {}
        self.keys: dict[str, tuple[int, object, Role, tuple[Claim, ...]]] = {}
        self.allowed: dict[str, tuple[int, int]] = {}
        self.knows_limits = [True] * SCHEDULERS
        self.key_count = 0
        self.claim_blindly(full, 0)

    def new_scheduler(self, number: int) -> Booking:
        """A scheduler with a fresh picture."""
        inventory = Inventory(self.hosts, self.srs, seed=SEED)
        booking = Booking(inventory, self.claims[number], PlacementSettings(), seed=number)
        booking.read()
        return booking

    def new_key(self) -> str:
        """An idempotency key that nobody used."""
        self.key_count += 1
        return f"key-{self.key_count}"

    def naive_claims(self) -> NaiveClaims:
        """What is claimed now, by the model."""
        return NaiveClaims(self.model, self.hosts, self.srs, {"red": self.quota})

    def note(self, claims: tuple[Claim, ...]) -> None:
        """These were claimed."""
        for claim in claims:
            self.model.setdefault(claim.owner, []).append(claim)

    # ------------------------------------------------------------------------------------------------ what can happen

    @rule(data=st.data(), which=WHICH)
    def create(self, data, which):
        """A server with its disks and volumes is placed, or there is a good reason."""
        self.place(which, data.draw(requests(self.hosts, self.srs, SERVER_IDS)), Role.HELD)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), which=WHICH)
    def move(self, data, which):
        """A server moves away from where it is, with those of its disks that the new host does not reach."""
        server_id = data.draw(st.sampled_from(sorted(self.requests)))
        held = self.model[server_id][0]
        where = {disk.disk_id: disk.sr_id for claims in self.model.values() for disk in claims[0].disks}
        request = self.requests[server_id]
        disks = tuple(replace(disk, sr_id=where.get(disk.disk_id, disk.sr_id), movable=True) for disk in request.disks)
        away = replace(request, disks=disks, host_ids=frozenset(), excluded_host_ids=frozenset({held.host.host_id}))
        self.place(which, away, Role.TARGET)

    def place(self, which: int, request: ServerRequest, role: Role) -> None:
        """Book; hold the answer against the rule in plain Python."""
        key = self.new_key()
        booking = self.schedulers[which]
        try:
            booked = booking.book(request, key, role)
        except NoValidHost:
            if self.knows_limits[which]:
                claims = list(self.claims[which].all())
                naive = NaivePlacement(self.hosts, self.srs, claims, SEED, {})
                assert naive.place(request, booking.settings, 0) is None
            return
        except QuotaExceeded:
            assert request.project == "red"
            assert self.quota != Quota()
            return
        except ClaimStateError:
            assert self.is_in_no_state(request, role)
            return
        self.keys[key] = (which, request, role, booked.change.claims)
        self.note(booked.change.claims)
        if role is Role.HELD:
            self.requests[request.server_id] = request

    def aimed(self, blind: Batch) -> Batch:
        """A blind batch with a key, and with hosts and SRs that there are; a move if the server is there already.

        Every other one of a group goes where another member is, or joins an affinity group at the target of a move, with
        nothing else in its way; and whom it must not meet is somebody on its host.
        """
        claim = blind.claims[0]
        assert claim.host is not None
        number = int(claim.host.host_id)
        others = [
            c for name, claims in self.model.items() for c in claims if name != claim.owner and c.host is not None
        ]
        mine = self.model.get(claim.owner, ())
        grouped = [c for c in others if c.membership is not None]
        moving = [c for c in grouped if c.role is Role.TARGET and c.membership.policy is Policy.AFFINITY]
        if moving and number % 2 and not mine:
            small = replace(claim.host, memory_mib=256, vcpus=1)
            claim = replace(claim, project="blue", host=small, disks=(), membership=AFFINITY)
            blind = replace(blind, same_host_as=(), different_host_from=())
        group_id = claim.membership.group_id if claim.membership is not None else ""
        mates = [c.host.host_id for c in [*moving, *grouped] if c.membership.group_id == group_id]
        beside = mates[0] if mates and number % 2 else self.hosts[number // 2 % len(self.hosts)].host_id
        share = replace(claim.host, host_id=beside)
        disks = tuple(replace(disk, sr_id=self.srs[int(disk.sr_id) % len(self.srs)].sr_id) for disk in claim.disks)
        if mine and mine[0].host is not None:
            known = {disk.disk_id: disk.size_bytes for disk in mine[0].disks}
            # Now and then a server or a disk would come out of its move with another size.
            disks = tuple(
                replace(disk, size_bytes=known[disk.disk_id]) if number % 3 else disk
                for disk in disks
                if disk.disk_id in known
            )
            size = mine[0].host if number % 8 else share
            share = replace(size, host_id=share.host_id)
            aimed = replace(mine[0], host=share, disks=disks, role=Role.TARGET)
        else:
            aimed = replace(claim, host=share, disks=disks)
        different = blind.different_host_from
        if different:
            different = tuple(c.owner for c in others if c.host.host_id == share.host_id)[:1] or different
        return replace(blind, key=self.new_key(), claims=(aimed,), different_host_from=different)

    @rule(blind=st.lists(blind_batches(), min_size=1, max_size=4), which=WHICH)
    def claim_blindly(self, blind, which):
        """Somebody claims without looking, for one server after the other."""
        for batch in blind:
            with suppress(Conflict, QuotaExceeded, ClaimStateError):
                self.note(self.claims[which].commit(self.aimed(batch)).claims)

    @precondition(lambda self: self.committed)
    @rule(data=st.data(), blind=blind_batches(), which=WHICH, same=st.booleans())
    def commit_again(self, data, blind, which, same):
        """A key is offered once more, by somebody who chose another host, or for something else."""
        first = self.committed[data.draw(st.sampled_from(sorted(self.committed)))]
        other = self.aimed(blind)
        if same:
            host_id = other.claims[0].host.host_id
            claims = tuple(
                replace(claim, host=replace(claim.host, host_id=host_id)) if claim.host is not None else claim
                for claim in first.claims
            )
            other = replace(first, claims=claims)
        with suppress(KeyReused, KeySpent):
            self.claims[which].commit(replace(other, key=first.key))

    def is_in_no_state(self, request: ServerRequest, role: Role) -> bool:
        """Whether the server or one of its volumes holds what it should not, or lacks what should move."""
        held = self.model.get(request.server_id, [])
        if (role is Role.HELD) == bool(held) or len(held) == 2:
            return True
        for disk in request.disks:
            claims = self.model.get(disk.disk_id, []) if disk.volume else held[:1]
            if disk.sr_id is None:
                if disk.volume and claims:
                    return True
            elif disk.movable and (disk.volume or role is Role.TARGET):
                known = [share for claim in claims for share in claim.disks if share.disk_id == disk.disk_id]
                if len(known) != 1 or claims[0].project != request.project or known[0].size_bytes != disk.size_bytes:
                    return True
        return False

    @rule(volume_id=VOLUME_IDS, gib=st.sampled_from([1, 8, 30]), which=WHICH)
    def create_volume(self, volume_id, gib, which):
        """A volume alone."""
        request = VolumeRequest(Disk(volume_id, gib * GIB, volume=True), "red")
        key = self.new_key()
        try:
            booked = self.schedulers[which].book_volume(request, key)
        except QuotaExceeded:
            return
        except NoValidHost:
            if self.knows_limits[which]:
                naive = NaivePlacement(self.hosts, self.srs, list(self.claims[which].all()), SEED, {})
                assert not any(naive.offers(sr, request.disk) and naive.free(sr) >= gib * GIB for sr in self.srs)
            return
        except ClaimStateError:
            assert volume_id in self.model
            return
        self.keys[key] = (which, request, Role.HELD, booked.change.claims)
        self.model[volume_id] = list(booked.change.claims)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), which=WHICH, end=st.sampled_from(["finish", "abort", "release"]))
    def end(self, data, which, end):
        """A move ends, well or not, or a server or volume goes; told to one scheduler only."""
        owner = data.draw(st.sampled_from(sorted(self.model)))
        owners = [owner, *(disk.disk_id for disk in getattr(self.requests.get(owner), "disks", ()) if disk.volume)]
        owners = [name for name in owners if name in self.model]
        claims = self.claims[which]
        if end == "release":
            change = claims.release([owner])
            del self.model[owner]
            self.requests.pop(owner, None)
        elif end == "finish":
            change = claims.finish_move(owners)
            for claim in change.claims:
                assert claim.role is Role.HELD
                if len(self.model[claim.owner]) == 2:
                    held, target = self.model[claim.owner]
                    assert claim.host == target.host
                    goes = {disk.disk_id: disk for disk in target.disks}
                    assert claim.disks == tuple(goes.get(disk.disk_id, disk) for disk in held.disks)
                self.model[claim.owner] = [claim]
        else:
            change = claims.abort_move(owners)
            for name in owners:
                del self.model[name][1:]
        self.schedulers[which].inventory.apply(change)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), which=WHICH, gib=st.sampled_from([6, 12, 40]))
    def grow(self, data, which, gib):
        """A disk grows, if there is room."""
        owner = data.draw(st.sampled_from(sorted(self.model)))
        disks = self.model[owner][0].disks
        if not disks:
            return
        try:
            change = self.claims[which].grow(owner, disks[0].disk_id, gib * GIB)
        except (Conflict, QuotaExceeded):
            return
        except ClaimStateError:
            assert len(self.model[owner]) == 2
            return
        assert change.claims[0].disks[0].size_bytes == max(gib * GIB, disks[0].size_bytes)
        self.model[owner] = list(change.claims)
        self.schedulers[which].inventory.apply(change)

    @precondition(lambda self: self.keys)
    @rule(data=st.data(), which=WHICH, other=SELDOM)
    def repeat(self, data, which, other):
        """A request that succeeded once is said again, or another one with its key: it changes nothing."""
        key = data.draw(st.sampled_from(sorted(self.keys)))
        _, request, role, claims = self.keys[key]
        if other and isinstance(request, VolumeRequest):
            request = replace(request, disk=replace(request.disk, size_bytes=request.disk.size_bytes + GIB))
        elif other:
            request = replace(request, flavor=replace(request.flavor, vcpus=request.flavor.vcpus + 1))
        before = self.claims[0].usage()
        booking = self.schedulers[which]
        in_force = all(
            any((now.host, now.membership) == (claim.host, claim.membership) for now in self.model.get(claim.owner, ()))
            for claim in claims
        )
        try:
            if isinstance(request, VolumeRequest):
                booked = booking.book_volume(request, key)
            else:
                booked = booking.book(request, key, role)
            assert not other, f"key {key} answers for something else"
            assert in_force
            assert {claim.owner for claim in booked.change.claims} == {claim.owner for claim in claims}
            if not isinstance(request, VolumeRequest):
                assert booked.host_id == claims[0].host.host_id
        except KeyReused:
            # What is asked depends on which disks had to move when it was asked; another picture may say otherwise.
            assert other or role is Role.TARGET or any(disk.movable for disk in request.disks)
        except KeySpent:
            pass
        assert self.claims[0].usage() == before

    @rule(data=st.data(), tells=st.lists(WHICH, unique=True))
    def change_host(self, data, tells):
        """A host fails, comes back, shrinks or grows; the claims know at once, the schedulers perhaps."""
        index = data.draw(st.integers(0, len(self.hosts) - 1))
        changed = replace(
            self.hosts[index],
            live=not data.draw(SELDOM),
            maintenance=False,
            enabled=True,
            memory_mib=data.draw(st.sampled_from([2048, 3072, 6144])),
        )
        self.hosts = [*self.hosts[:index], changed, *self.hosts[index + 1 :]]
        self.claims[0].set_limits([HostLimit.of(changed)])
        self.knows_limits = [which in tells and self.knows_limits[which] for which in range(SCHEDULERS)]
        for which in tells:
            inventory = self.schedulers[which].inventory
            if changed.host_id in inventory.host_index:
                inventory.update_host(changed)

    @rule(index=st.integers(0, 7), enabled=st.sampled_from([True, True, False]), tells=st.lists(WHICH, unique=True))
    def change_sr(self, index, enabled, tells):
        """An operator closes an SR or opens it again."""
        index %= len(self.srs)
        changed = replace(self.srs[index], enabled=enabled)
        self.srs = [*self.srs[:index], changed, *self.srs[index + 1 :]]
        self.claims[0].set_limits((), [SrLimit.of(changed)])
        self.knows_limits = [which in tells and self.knows_limits[which] for which in range(SCHEDULERS)]
        for which in tells:
            self.schedulers[which].inventory.update_sr(changed)

    @precondition(lambda self: len(self.hosts) < 6)
    @rule(zone=st.integers(1, 2), reader=WHICH)
    def add_host(self, zone, reader):
        """A small host comes; one scheduler sees it."""
        number = max(each.device.id for each in self.hosts) + 1
        self.hosts = [*self.hosts, host(number, zone=zone, memory_mib=3072, vcpu_ratio=1.0)]
        self.claims[0].set_limits([HostLimit.of(self.hosts[-1])])
        self.knows_limits = [False] * SCHEDULERS
        self.read(reader)

    @rule(which=WHICH, looks=SELDOM)
    def look(self, which, looks):
        """A scheduler looks again, now and then."""
        if looks:
            self.read(which)

    def read(self, which: int) -> None:
        """A new picture."""
        self.schedulers[which] = self.new_scheduler(which)
        self.knows_limits[which] = True

    # --------------------------------------------------------------------------------------------- what must always hold

    @invariant()
    def nothing_is_given_out_twice(self):
        """No host or SR is over its limit, unless the limit fell below what was claimed; then it gets nothing more."""
        if not hasattr(self, "claims"):
            return
        claims = list(self.claims[1].all())
        memory: dict[str, int] = {}
        vcpus: dict[str, int] = {}
        stored: dict[str, int] = {}
        for claim in claims:
            if claim.host is not None:
                memory[claim.host.host_id] = memory.get(claim.host.host_id, 0) + claim.host.memory_mib
                vcpus[claim.host.host_id] = vcpus.get(claim.host.host_id, 0) + claim.host.vcpus
            for disk in claim.disks:
                stored[disk.sr_id] = stored.get(disk.sr_id, 0) + disk.size_bytes
        for each in self.hosts:
            sums = (memory.pop(each.host_id, 0), vcpus.pop(each.host_id, 0))
            floor = self.allowed.get(each.host_id, (0, 0))
            assert sums[0] <= max(each.memory_limit_mib, floor[0]), f"{each.host_id}: {sums[0]} MiB"
            assert sums[1] <= max(each.vcpus_limit, floor[1]), f"{each.host_id}: {sums[1]} vCPUs"
            self.allowed[each.host_id] = sums
        for each in self.srs:
            size_bytes = stored.pop(each.sr_id, 0)
            assert size_bytes <= each.limit_bytes, f"{each.sr_id}: {size_bytes} bytes"
        assert not memory
        assert not stored
        self.usage_is_the_sum(claims)

    def usage_is_the_sum(self, claims: list[Claim]) -> None:
        """What the claims keep as sums are sums, and the model holds the same claims."""
        hosts, srs = self.claims[0].usage()
        for usage in hosts:
            shares = [c.host for c in claims if c.host is not None and c.host.host_id == usage.limit.host_id]
            assert usage.memory_mib == sum(share.memory_mib for share in shares)
            assert usage.vcpus == sum(share.vcpus for share in shares)
        for on_sr in srs:
            sizes = [d.size_bytes for c in claims for d in c.disks if d.sr_id == on_sr.limit.sr_id]
            assert on_sr.size_bytes == sum(sizes)
        found: dict[str, list[Claim]] = {}
        for claim in claims:
            found.setdefault(claim.owner, []).append(claim)
        assert found == self.model
        assert self.wrong_sums() == []

    @invariant()
    def policies_hold(self):
        """No two members of an anti-affinity group meet; an affinity group is together, however its moves end."""
        if not hasattr(self, "claims"):
            return
        apart: dict[tuple[str, str], str] = {}
        together: dict[tuple[str, int], set[str]] = {}
        for owner, claims in self.model.items():
            for claim in claims:
                if claim.membership is None:
                    continue
                group = claim.membership.group_id
                if claim.membership.policy is Policy.ANTI_AFFINITY:
                    assert apart.setdefault((group, claim.host.host_id), owner) == owner
            if claims[0].membership is not None and claims[0].membership.policy is Policy.AFFINITY:
                group = claims[0].membership.group_id
                for end in (0, -1):
                    together.setdefault((group, end), set()).add(claims[end].host.host_id)
        assert all(len(hosts) == 1 for hosts in together.values()), together

    @invariant()
    def quota_holds(self):
        """No project holds more than its quota; what it holds is counted right."""
        if not hasattr(self, "claims"):
            return
        quota, usage = self.claims[1].quota("red")
        held = [claims[0] for claims in self.model.values() if claims[0].project == "red"]
        assert usage.servers == sum(claim.host is not None for claim in held)
        assert usage.vcpus == sum(claim.host.vcpus for claim in held if claim.host is not None)
        assert usage.disk_bytes == sum(disk.size_bytes for claim in held for disk in claim.disks)
        for name in ("servers", "vcpus", "disk_bytes"):
            limit = getattr(quota, name)
            assert limit is None or getattr(usage, name) <= limit

    @invariant()
    def pictures_are_whole(self):
        """What a picture derives from what it knows is right, however old that is."""
        for booking in getattr(self, "schedulers", ()):
            booking.inventory.check()


class SqlHistories(Histories):
    """The same against a database, through two engines; and two transactions that want the same rows."""

    engines: tuple[Engine, Engine]
    rival: Batch | None = None
    """What another transaction commits between the next one's reading and its writing."""
    rival_claims: tuple[Claim, ...] = ()
    running: SqlHistories | None = None
    """Of the class: the history in which two claim at once, now."""

    def open_claims(self) -> tuple:
        """Two ways into one empty database."""
        empty(self.engines[0])
        ways = [SqlClaims(engine, lambda: 0.0) for engine in self.engines]
        return tuple(ways[number % 2] for number in range(SCHEDULERS))

    def write_after_rival(self, connection: Connection, *rest) -> Change:
        """In place of `write`: the rival's rows are there first, though they were not when this batch was checked.

        That is how READ COMMITTED would have it. Both are in one transaction here, so where the comparison of generations
        sends this batch back to the beginning, the rival is undone as well.
        """
        if self.rival is not None:
            rival, self.rival = self.rival, None
            try:
                self.rival_claims = self.claims[0]._commit(connection, rival).claims
            except (Conflict, QuotaExceeded, ClaimStateError):
                self.rival_claims = ()
        try:
            return write.write(connection, *rest)
        except (write.Raced, IntegrityError):
            self.reached["raced"] += bool(self.rival_claims)
            self.rival_claims = ()
            raise

    @rule(blind=st.lists(blind_batches(), min_size=2, max_size=6), which=WHICH)
    def claim_blindly(self, blind, which):
        """Two at a time claim at the same moment without looking: both as they checked, or one of them anew."""
        for first, rival in zip(blind[::2], blind[1::2], strict=False):
            self.claim_at_once(first, rival)

    def claim_at_once(self, blind: Batch, rival: Batch) -> None:
        """One such pair."""
        first, self.rival = self.aimed(blind), self.aimed(rival)
        type(self).running = self
        try:
            claims = self.claims[0].commit(first).claims
        except (Conflict, QuotaExceeded, ClaimStateError):
            return
        finally:
            type(self).running = None
            self.note(self.rival_claims)
            self.rival, self.rival_claims = None, ()
        self.note(claims)

    def wrong_sums(self) -> list[str]:
        """What the database has wrong."""
        return wrong_sums(self.engines[1])
