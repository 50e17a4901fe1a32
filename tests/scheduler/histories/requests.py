"""What schedulers are asked for: servers and volumes that are made, move, grow and go, and requests that come twice."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from scheduler.claims.claim import Quota, Role
from scheduler.errors import ClaimStateError, Conflict, KeyReused, KeySpent, NoValidHost, QuotaExceeded
from scheduler.placement.request import Disk, ServerRequest, VolumeRequest
from tests.scheduler.histories.world import SEED, SERVER_IDS, WHICH, World
from tests.scheduler.placement.naive import NaivePlacement
from tests.scheduler.placement.worlds import GIB, SELDOM, requests

VOLUME_IDS = st.sampled_from([f"v{number}" for number in range(4)])


class Requests(World):
    """Booked through a scheduler, each answer held against the plain rule of placement."""

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
