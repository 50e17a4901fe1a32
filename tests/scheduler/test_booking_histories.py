"""Safety: over random histories nothing is given out twice, whoever looks at whichever old picture.

Two schedulers with pictures of their own place, move, grow and delete; hosts fail, shrink, come back and are added; keys are
repeated. After every step all claims are summed up from nothing and held against limits, policies, quotas and a model that
is a dictionary. The same histories run against claims in memory, in a SQLite file through two engines, and in PostgreSQL.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine

from scheduler.booking import Booking
from scheduler.claims.claim import Claim, HostLimit, Quota, Role, SrLimit
from scheduler.claims.memory import MemoryClaims
from scheduler.claims.sql import SqlClaims
from scheduler.claims.sums import wrong_sums
from scheduler.database import open_engine
from scheduler.errors import ClaimStateError, Conflict, KeyReused, KeySpent, NoValidHost, QuotaExceeded
from scheduler.metadata import METADATA
from scheduler.placement.inventory import Inventory
from scheduler.placement.request import Disk, Policy, ServerRequest, VolumeRequest
from scheduler.placement.settings import PlacementSettings
from tests.scheduler.claims.conftest import empty
from tests.scheduler.placement.naive import NaivePlacement
from tests.scheduler.placement.worlds import GIB, clouds, host, requests

SEED = 3
SERVER_IDS = st.sampled_from([f"s{number}" for number in range(10)])
VOLUME_IDS = st.sampled_from([f"v{number}" for number in range(4)])
WHICH = st.integers(0, 1)


class Histories(RuleBasedStateMachine):
    """See the module."""

    def open_claims(self) -> tuple:
        """The claims as each of the two schedulers sees them."""
        claims = MemoryClaims(lambda: 0.0)
        return claims, claims

    def wrong_sums(self) -> list[str]:
        """What the claims' own sums have wrong."""
        return []

    @initialize(cloud=clouds(), quota=st.sampled_from([Quota(), Quota(servers=3, disk_bytes=30 * GIB), Quota(vcpus=6)]))
    def begin(self, cloud, quota):
        """A small cloud, two schedulers."""
        self.hosts, self.srs = cloud
        self.claims = self.open_claims()
        self.claims[0].set_limits(map(HostLimit.of, self.hosts), map(SrLimit.of, self.srs))
        self.quota = quota
        self.claims[0].set_quota("red", quota)
        self.schedulers = [self.new_scheduler(number) for number in range(2)]
        self.model: dict[str, list[Claim]] = {}
        self.requests: dict[str, ServerRequest] = {}
        self.keys: dict[str, tuple[int, object, Role, tuple[Claim, ...]]] = {}
        self.allowed: dict[str, tuple[int, int]] = {}
        self.knows_hosts = [True, True]

    def new_scheduler(self, number: int) -> Booking:
        """A scheduler with a fresh picture."""
        inventory = Inventory(self.hosts, self.srs, seed=SEED)
        booking = Booking(inventory, self.claims[number], PlacementSettings(), seed=number)
        booking.read()
        return booking

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
        key = f"key-{len(self.keys)}"
        booking = self.schedulers[which]
        try:
            booked = booking.book(request, key, role)
        except NoValidHost:
            if self.knows_hosts[which]:
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
        for claim in booked.change.claims:
            self.model.setdefault(claim.owner, []).append(claim)
        if role is Role.HELD:
            self.requests[request.server_id] = request

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
                if len(known) != 1 or claims[0].project != request.project:
                    return True
        return False

    @rule(volume_id=VOLUME_IDS, gib=st.sampled_from([1, 8, 30]), which=WHICH)
    def create_volume(self, volume_id, gib, which):
        """A volume alone."""
        request = VolumeRequest(Disk(volume_id, gib * GIB, volume=True), "red")
        key = f"key-{len(self.keys)}"
        try:
            booked = self.schedulers[which].book_volume(request, key)
        except QuotaExceeded:
            return
        except NoValidHost:
            if self.knows_hosts[which]:
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
    @rule(data=st.data(), which=WHICH)
    def repeat(self, data, which):
        """A request that succeeded once is said again, to either scheduler: it changes nothing."""
        key = data.draw(st.sampled_from(sorted(self.keys)))
        _, request, role, claims = self.keys[key]
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
            assert in_force
            assert {claim.owner for claim in booked.change.claims} == {claim.owner for claim in claims}
            if not isinstance(request, VolumeRequest):
                assert booked.host_id == claims[0].host.host_id
        except KeyReused:
            # What is asked depends on which disks had to move when it was asked; another picture may say otherwise.
            assert role is Role.TARGET or any(disk.movable for disk in request.disks)
        except KeySpent:
            pass
        assert self.claims[0].usage() == before

    @rule(data=st.data(), tells=st.lists(WHICH, unique=True))
    def change_host(self, data, tells):
        """A host fails, comes back, shrinks or grows; the claims know at once, the schedulers perhaps."""
        index = data.draw(st.integers(0, len(self.hosts) - 1))
        changed = replace(
            self.hosts[index],
            live=data.draw(st.booleans()),
            maintenance=False,
            enabled=True,
            memory_mib=data.draw(st.sampled_from([3072, 8192, 16_384])),
        )
        self.hosts = [*self.hosts[:index], changed, *self.hosts[index + 1 :]]
        self.claims[0].set_limits([HostLimit.of(changed)])
        self.knows_hosts = [which in tells and self.knows_hosts[which] for which in range(2)]
        for which in tells:
            self.schedulers[which].inventory.update_host(changed)

    @precondition(lambda self: len(self.hosts) < 12)
    @rule(zone=st.integers(1, 2))
    def add_host(self, zone):
        """A host comes; both schedulers make a new picture."""
        number = max(each.device.id for each in self.hosts) + 1
        self.hosts = [*self.hosts, host(number, zone=zone)]
        self.claims[0].set_limits([HostLimit.of(self.hosts[-1])])
        for which in range(2):
            self.read(which)

    @rule(which=WHICH)
    def read(self, which):
        """A scheduler looks again."""
        self.schedulers[which] = self.new_scheduler(which)
        self.knows_hosts[which] = True

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
            assert stored.pop(each.sr_id, 0) <= each.limit_bytes, each.sr_id
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
        """No two members of an anti-affinity group meet; an affinity group is together."""
        if not hasattr(self, "claims"):
            return
        apart: dict[tuple[str, str], str] = {}
        together: dict[str, set[str]] = {}
        for owner, claims in self.model.items():
            for claim in claims:
                if claim.membership is None:
                    continue
                group = claim.membership.group_id
                if claim.membership.policy is Policy.ANTI_AFFINITY:
                    assert apart.setdefault((group, claim.host.host_id), owner) == owner
            if claims[-1].membership is not None and claims[-1].membership.policy is Policy.AFFINITY:
                together.setdefault(claims[-1].membership.group_id, set()).add(claims[-1].host.host_id)
        assert all(len(hosts) == 1 for hosts in together.values())

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
    """The same against a database, through two engines."""

    engines: tuple[Engine, Engine]

    def open_claims(self) -> tuple:
        """Two ways into one empty database."""
        empty(self.engines[0])
        return tuple(SqlClaims(engine, lambda: 0.0) for engine in self.engines)

    def wrong_sums(self) -> list[str]:
        """What the database has wrong."""
        return wrong_sums(self.engines[1])


def run(machine: type[Histories], examples: int, steps: int) -> None:
    """Run some histories."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )


def test_histories_in_memory():
    """Claims in memory keep every promise over random histories."""
    run(Histories, 30, 40)


def run_sql(engines: tuple[Engine, Engine], examples: int) -> None:
    """Run histories against a database."""
    METADATA.create_all(engines[0])
    run(type("Opened", (SqlHistories,), {"engines": engines}), examples, 30)


def test_histories_in_sqlite():
    """Claims in a SQLite file, used by two controllers, keep every promise."""
    with tempfile.TemporaryDirectory(prefix="ringstead-claims-") as folder:
        engines = tuple(open_engine(f"sqlite:///{Path(folder) / 'claims.db'}") for _ in range(2))
        try:
            run_sql(engines, 12)
        finally:
            for engine in engines:
                engine.dispose()


@pytest.mark.slow
def test_histories_in_postgresql(postgresql):
    """Claims in PostgreSQL, used by two controllers, keep every promise."""
    url = postgresql.new_url()
    engines = (open_engine(url), open_engine(url))
    try:
        run_sql(engines, 5)
    finally:
        for engine in engines:
            engine.dispose()
