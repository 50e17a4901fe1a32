"""Somebody who claims at random without looking: what a scheduler's filters would hold back comes to the claims."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from scheduler.claims.claim import Batch, Claim, DiskShare, HostShare, Role
from scheduler.errors import ClaimStateError, Conflict, KeyReused, KeySpent, QuotaExceeded
from scheduler.placement.request import Membership, Policy
from tests.scheduler.histories.world import SERVER_IDS, WHICH, World
from tests.scheduler.placement.worlds import GIB

AFFINITY = Membership("g-affinity", Policy.AFFINITY)
GROUPS = [Membership(f"g-{policy.value}", policy) for policy in Policy]


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


class BlindClaims(World):
    """Claims without looking, and keys that are offered once more."""

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
