"""What every way of keeping claims does: one call after the other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from scheduler.claims.claim import (
    Batch,
    Change,
    Claim,
    DiskShare,
    HostLimit,
    HostShare,
    ProjectUsage,
    Quota,
    Role,
    SrLimit,
)
from scheduler.errors import ClaimStateError, Conflict, KeyReused, KeySpent, QuotaExceeded
from scheduler.placement.request import Membership, Policy

GIB = 1 << 30


@pytest.fixture
def claims(make_claims):
    """Claims over three hosts of 8 GiB and 4 vCPUs, and two SRs of 100 GiB."""
    made = make_claims()
    made.set_limits([HostLimit(f"h{n}", 8192, 4) for n in range(3)], [SrLimit(f"sr{n}", 100 * GIB) for n in range(2)])
    return made


def server(name: str, host: str = "h0", memory: int = 2048, vcpus: int = 1, *disks: DiskShare, **more) -> Claim:
    """A server's claim."""
    return Claim(name, more.pop("project", "p"), HostShare(host, memory, vcpus), disks, **more)


def volume(name: str, sr: str = "sr0", gib: int = 10, **more) -> Claim:
    """A volume's claim."""
    return Claim(name, more.pop("project", "p"), None, (DiskShare(name, sr, gib * GIB),), **more)


def figures(claims) -> dict[str, tuple[int, ...]]:
    """What is claimed, by host and SR."""
    hosts, srs = claims.usage()
    return {each.limit.host_id: (each.memory_mib, each.vcpus) for each in hosts} | {
        each.limit.sr_id: (each.size_bytes // GIB,) for each in srs
    }


EMPTY = {"h0": (0, 0), "h1": (0, 0), "h2": (0, 0), "sr0": (0,), "sr1": (0,)}


def test_commit_and_release(claims):
    """A server with its disk and a volume is claimed whole, is found again, and leaves nothing behind."""
    root = DiskShare("root", "sr0", 20 * GIB)
    batch = Batch("k", (server("s", "h1", 2048, 2, root), volume("v", "sr1")))
    change = claims.commit(batch)
    assert change.claims == batch.claims
    assert {each.limit.host_id: each.memory_mib for each in change.hosts} == {"h1": 2048}
    assert {each.limit.sr_id: each.size_bytes for each in change.srs} == {"sr0": 20 * GIB, "sr1": 10 * GIB}
    assert figures(claims) == EMPTY | {"h1": (2048, 2), "sr0": (20,), "sr1": (10,)}
    assert claims.of("s") == (batch.claims[0],)
    assert list(claims.all()) == sorted(batch.claims, key=lambda claim: claim.owner)
    assert claims.quota("p")[1] == ProjectUsage(1, 2, 2048, 1, 30 * GIB)
    assert claims.release(["s"]).gone == (batch.claims[0],)
    assert figures(claims) == EMPTY | {"sr1": (10,)}
    assert claims.release(["s", "v", "nobody"]).gone == (batch.claims[1],)
    assert figures(claims) == EMPTY
    assert claims.quota("p")[1] == ProjectUsage()
    assert claims.release(["s", "v"]) == Change()


@pytest.mark.parametrize(
    ("claim", "kind", "resource", "message"),
    [
        (server("x", "h0", 7000), "memory", "h0", "needs 7000 MiB of memory, 6144 MiB free"),
        (server("x", "h0", 512, 4), "vcpus", "h0", "needs 4 vCPUs, 3 free"),
        (server("x", "h9"), "closed", "h9", "takes no new servers"),
        (volume("x", "sr0", 91), "sr-space", "sr0", "lacks 1024 MiB"),
        (volume("x", "sr9"), "closed", "sr9", "takes no new disks"),
    ],
)
def test_conflict_claims_nothing(claims, claim, kind, resource, message):
    """What does not fit is refused with the reason, and nothing of its batch is claimed."""
    claims.commit(Batch("k", (server("s"), volume("v"))))
    before = figures(claims), claims.quota("p")
    with pytest.raises(Conflict, match=message) as caught:
        claims.commit(Batch("x", (volume("other", "sr1"), claim)))
    assert (caught.value.kind, caught.value.resource) == (kind, resource)
    assert (figures(claims), claims.quota("p")) == before
    assert claims.of("other") == claims.of("x") == ()
    assert claims.made("x") is None


def test_limits_change_under_claims(claims):
    """A limit below what is claimed leaves the claims and refuses new ones; a removed host stays until it is let go of."""
    claims.commit(Batch("k", (server("s"),)))
    claims.set_limits([HostLimit("h0", 1024, 4)])
    assert figures(claims)["h0"] == (2048, 1)
    with pytest.raises(Conflict):
        claims.commit(Batch("x", (server("x", "h0", 1),)))
    claims.set_limits([HostLimit("h0", 8192, 4, is_open=False), HostLimit("h1", 8192, 4, is_open=False)])
    with pytest.raises(Conflict, match="takes no new servers"):
        claims.commit(Batch("x", (server("x", "h0", 1),)))
    claims.remove(["h0", "h1", "sr0", "nothing"])
    assert figures(claims) == {"h0": (2048, 1), "h2": (0, 0), "sr1": (0,)}
    claims.release(["s"])
    claims.remove(["h0"])
    assert figures(claims) == {"h2": (0, 0), "sr1": (0,)}


def test_generations_count_changes(claims):
    """Every change of a host or SR counts its generation up; a limit that stays the same does not."""
    first = claims.usage_of(["h0", "sr0", "nothing"])
    claims.set_limits([HostLimit("h0", 8192, 4)], [SrLimit("sr0", 100 * GIB)])
    assert claims.usage_of(["h0", "sr0"]) == first
    change = claims.commit(Batch("k", (server("s", "h0", 1, 1, DiskShare("d", "sr0", GIB)),)))
    assert change.hosts[0].generation == first[0][0].generation + 1
    assert change.srs[0].generation == first[1][0].generation + 1
    assert claims.usage_of(["h0", "sr0"]) == (change.hosts, change.srs)


def test_same_key_same_answer(claims):
    """A repeated batch claims once and answers as before, wherever the repetition would have put it."""
    batch = Batch("k", (server("s", "h0", 2048, 1, DiskShare("d", "sr0", GIB)), volume("v")))
    first = claims.commit(batch)
    elsewhere = Batch("k", (server("s", "h2", 2048, 1, DiskShare("d", "sr1", GIB)), volume("v", "sr1")))
    for again in (batch, elsewhere):
        answer = claims.commit(again)
        assert answer.claims == first.claims
        assert sorted(answer.hosts, key=repr) == sorted(first.hosts, key=repr)
        assert sorted(answer.srs, key=repr) == sorted(first.srs, key=repr)
    assert claims.made("k").claims == first.claims
    assert claims.made("other") is None
    assert figures(claims)["h0"] == (2048, 1)


def test_key_for_something_else(claims):
    """A key that was used for another server, another size or another project is refused."""
    claims.commit(Batch("k", (server("s"),)))
    for claim in (server("t"), server("s", memory=4096), server("s", project="q"), volume("s")):
        with pytest.raises(KeyReused):
            claims.commit(Batch("k", (claim,)))
    assert figures(claims)["h0"] == (2048, 1)


def test_spent_key_brings_nothing_back(claims, clock):
    """A late repetition of what was released since claims nothing, also when the owner holds something newer."""
    batch = Batch("k", (server("s"),))
    claims.commit(batch)
    claims.release(["s"])
    for _ in range(2):
        with pytest.raises(KeySpent):
            claims.commit(batch)
        with pytest.raises(KeySpent):
            claims.made("k")
        if not claims.of("s"):
            claims.commit(Batch("newer", (server("s", "h1"),)))
    assert figures(claims) == EMPTY | {"h1": (2048, 1)}
    clock["s"] = 2000.0
    claims.commit(Batch("late", (server("t"),)))
    assert claims.forget_keys(1500.0) == 1  # "newer" still holds, "late" is young
    assert claims.made("k") is None
    assert claims.made("newer") is not None


def test_owner_holds_once(claims):
    """Nobody holds twice under two keys, and nobody moves who holds nothing or moves already."""
    claims.commit(Batch("k", (server("s"),)))
    with pytest.raises(ClaimStateError, match="holds a claim already"):
        claims.commit(Batch("k2", (server("s", "h1"),)))
    with pytest.raises(ClaimStateError, match="nothing that could move"):
        claims.commit(Batch("k3", (server("t", role=Role.TARGET),)))
    claims.commit(Batch("k4", (server("s", "h1", role=Role.TARGET),)))
    with pytest.raises(ClaimStateError, match="moving already"):
        claims.commit(Batch("k5", (server("s", "h2", role=Role.TARGET),)))
    claims.abort_move(["s"])
    with pytest.raises(ClaimStateError, match="neither project nor group"):
        claims.commit(Batch("k6", (server("s", "h2", role=Role.TARGET, project="q"),)))
    with pytest.raises(ClaimStateError, match="no disk d"):
        claims.commit(Batch("k7", (server("s", "h2", 2048, 1, DiskShare("d", "sr0", GIB), role=Role.TARGET),)))


@pytest.mark.parametrize("gib", [19, 21])
def test_a_move_changes_no_disk(claims, gib):
    """A disk of another size at the target is refused, of a server and of a volume, also where quota and SRs have room."""
    claims.commit(Batch("make", (server("s", "h0", 2048, 1, DiskShare("root", "sr0", 20 * GIB)), volume("v", gib=20))))
    for key, target in (
        ("a", server("s", "h1", 2048, 1, DiskShare("root", "sr1", gib * GIB), role=Role.TARGET)),
        ("b", volume("v", "sr1", gib, role=Role.TARGET)),
    ):
        with pytest.raises(ClaimStateError, match="a move does not change its size"):
            claims.commit(Batch(key, (target,)))
    assert figures(claims) == EMPTY | {"h0": (2048, 1), "sr0": (40,)}


def moving(claims) -> None:
    """A server on h0 with disks on both SRs and a volume; all but one disk on their way to h1 and sr1."""
    own = (DiskShare("root", "sr0", 20 * GIB), DiskShare("data", "sr1", 5 * GIB))
    claims.commit(Batch("make", (server("s", "h0", 2048, 1, *own), volume("v", "sr0"))))
    target = server("s", "h1", 2048, 1, DiskShare("root", "sr1", 20 * GIB), role=Role.TARGET)
    claims.commit(Batch("move", (target, volume("v", "sr1", role=Role.TARGET))))


def test_move(claims):
    """While a server moves both places are claimed; then the target is what it holds, with the disks that stayed."""
    moving(claims)
    assert figures(claims) == EMPTY | {"h0": (2048, 1), "h1": (2048, 1), "sr0": (30,), "sr1": (35,)}
    assert [claim.role for claim in claims.of("s")] == [Role.HELD, Role.TARGET]
    assert claims.quota("p")[1] == ProjectUsage(1, 1, 2048, 1, 35 * GIB)
    change = claims.finish_move(["s", "v"])
    assert figures(claims) == EMPTY | {"h1": (2048, 1), "sr1": (35,)}
    disks = (DiskShare("root", "sr1", 20 * GIB), DiskShare("data", "sr1", 5 * GIB))
    assert claims.of("s") == (server("s", "h1", 2048, 1, *disks),) == change.claims[:1]
    assert len(change.gone) == 4
    assert {each.limit.host_id: each.memory_mib for each in change.hosts} == {"h0": 0, "h1": 2048}
    again = claims.finish_move(["s", "v"])
    assert (again.claims, again.gone) == (change.claims, ())
    assert claims.quota("p")[1] == ProjectUsage(1, 1, 2048, 1, 35 * GIB)
    assert claims.made("move").claims == change.claims
    with pytest.raises(KeySpent):
        claims.made("make")
    with pytest.raises(ClaimStateError, match="nobody holds nothing"):
        claims.finish_move(["s", "nobody"])


def test_abort_move(claims):
    """An aborted move leaves what was before, and may be said twice."""
    moving(claims)
    change = claims.abort_move(["s", "v", "nobody"])
    assert [claim.role for claim in change.gone] == [Role.TARGET, Role.TARGET]
    assert [claim.owner for claim in change.claims] == ["s", "v"]
    assert figures(claims) == EMPTY | {"h0": (2048, 1), "sr0": (30,), "sr1": (5,)}
    assert claims.abort_move(["s", "v"]).gone == ()
    with pytest.raises(KeySpent):
        claims.made("move")
    assert claims.made("make").claims == change.claims


def test_release_while_moving(claims):
    """Letting go of a server that moves lets go of both places."""
    moving(claims)
    claims.release(["s", "v"])
    assert figures(claims) == EMPTY
    assert claims.quota("p")[1] == ProjectUsage()


def test_grow(claims):
    """A disk grows within its SR and the quota, never shrinks, and not while it moves."""
    claims.commit(Batch("k", (volume("v", "sr0", 10),)))
    change = claims.grow("v", "v", 60 * GIB)
    assert change.claims == claims.of("v")
    assert claims.of("v")[0].disks[0].size_bytes == 60 * GIB
    claims.grow("v", "v", 20 * GIB)
    assert figures(claims)["sr0"] == (60,)
    with pytest.raises(Conflict, match="lacks 1024 MiB"):
        claims.grow("v", "v", 101 * GIB)
    claims.set_quota("p", Quota(disk_bytes=70 * GIB))
    with pytest.raises(QuotaExceeded):
        claims.grow("v", "v", 80 * GIB)
    assert figures(claims)["sr0"] == (60,)
    with pytest.raises(ClaimStateError, match="no disk w"):
        claims.grow("v", "w", GIB)
    with pytest.raises(ClaimStateError, match="holds nothing"):
        claims.grow("w", "w", GIB)
    claims.commit(Batch("m", (volume("v", "sr1", 60, role=Role.TARGET),)))
    with pytest.raises(ClaimStateError, match="is moving"):
        claims.grow("v", "v", 65 * GIB)


@pytest.mark.parametrize(
    ("quota", "resource"),
    [
        (Quota(servers=2), "servers"),
        (Quota(vcpus=3), "vcpus"),
        (Quota(memory_mib=5000), "memory_mib"),
        (Quota(volumes=1), "volumes"),
        (Quota(disk_bytes=12 * GIB), "disk_bytes"),
    ],
)
def test_quota(claims, quota, resource):
    """More than the quota is refused whole, also where each part alone would do; other projects do not count."""
    claims.set_quota("p", quota)
    claims.commit(Batch("a", (server("a", project="other"), server("b", project="p"), volume("v"))))
    before = figures(claims)
    more = (server("c", "h1"), server("d", "h2", vcpus=2), volume("w", gib=5))
    with pytest.raises(QuotaExceeded, match="project p would have") as caught:
        claims.commit(Batch("x", more))
    assert (caught.value.resource, caught.value.project) == (resource, "p")
    assert figures(claims) == before
    claims.set_quota("p", Quota())
    claims.commit(Batch("x", more))
    claims.set_quota("p", quota)
    claims.release(["c"])  # over its quota a project may still let go


def test_default_quota(make_claims):
    """A project without a quota of its own has the default, until it gets one."""
    claims = make_claims(default_quota=Quota(servers=1))
    claims.set_limits([HostLimit("h0", 8192, 4)])
    claims.commit(Batch("a", (server("a"),)))
    with pytest.raises(QuotaExceeded):
        claims.commit(Batch("b", (server("b"),)))
    claims.set_quota("p", Quota(servers=2))
    claims.commit(Batch("b", (server("b"),)))
    assert claims.quota("p") == (Quota(servers=2), ProjectUsage(2, 2, 4096, 0, 0))
    assert claims.quota("q") == (Quota(servers=1), ProjectUsage())


def test_anti_affinity_at_commit(claims):
    """No two members on one host, be they held, on their way, or in one batch."""
    group = Membership("g", Policy.ANTI_AFFINITY)
    claims.commit(Batch("a", (server("a", "h0", membership=group),)))
    claims.commit(Batch("b", (server("b", "h1", membership=group),)))
    for name, host in (("x", "h0"), ("y", "h1")):
        with pytest.raises(Conflict, match="anti-affinity group g") as caught:
            claims.commit(Batch(name, (server(name, host, membership=group),)))
        assert caught.value.kind == "group"
    claims.commit(Batch("m", (server("a", "h2", membership=group, role=Role.TARGET),)))
    for host in ("h0", "h2"):
        with pytest.raises(Conflict):
            claims.commit(Batch("z", (server("z", host, membership=group),)))
    claims.finish_move(["a"])
    claims.commit(Batch("z", (server("z", "h0", membership=group),)))
    claims.release(["a", "b", "z"])
    with pytest.raises(Conflict):
        claims.commit(Batch("two", (server("a", membership=group), server("b", membership=group))))
    assert claims.members("g") == ()


def test_affinity_at_commit(claims):
    """All members on one host; a group moves in one batch, and nobody joins it meanwhile."""
    group = Membership("g", Policy.AFFINITY)
    claims.commit(Batch("a", (server("a", "h0", 1024, membership=group),)))
    with pytest.raises(Conflict, match="affinity group g: a is on host h0, not h1"):
        claims.commit(Batch("b", (server("b", "h1", 1024, membership=group),)))
    claims.commit(Batch("b", (server("b", "h0", 1024, membership=group),)))
    assert [claim.owner for claim in claims.members("g")] == ["a", "b"]
    targets = tuple(server(name, "h1", 1024, membership=group, role=Role.TARGET) for name in ("a", "b"))
    with pytest.raises(Conflict):
        claims.commit(Batch("m1", targets[:1]))
    with pytest.raises(Conflict, match="a is on host h0, not h1"):
        claims.commit(Batch("m2", (*targets, server("c", "h1", 1024, membership=group))))
    claims.commit(Batch("m2", targets))
    for host in ("h0", "h1", "h2"):
        with pytest.raises(Conflict, match="affinity group g: a is") as caught:
            claims.commit(Batch("c", (server("c", host, 1024, membership=group),)))
        assert caught.value.kind == "group"
    claims.finish_move(["a", "b"])
    claims.commit(Batch("c", (server("c", "h1", 1024, membership=group),)))
    assert {claim.host.host_id for claim in claims.members("g")} == {"h1"}


def test_an_aborted_move_leaves_an_affinity_group_together(claims):
    """Where a member's move was only begun nobody joins at its target, so that it may turn back."""
    group = Membership("g", Policy.AFFINITY)
    claims.commit(Batch("a", (server("a", "h0", 1024, membership=group),)))
    claims.commit(Batch("m", (server("a", "h1", 1024, membership=group, role=Role.TARGET),)))
    with pytest.raises(Conflict, match="a is moving to host h1"):
        claims.commit(Batch("b", (server("b", "h0", 1024, membership=group),)))
    with pytest.raises(Conflict, match="a is on host h0, not h1"):
        claims.commit(Batch("b", (server("b", "h1", 1024, membership=group),)))
    claims.abort_move(["a"])
    claims.commit(Batch("b", (server("b", "h0", 1024, membership=group),)))
    assert {claim.host.host_id for claim in claims.members("g")} == {"h0"}


def test_company_at_commit(claims):
    """Servers that the batch must, must not share its host with are looked up again."""
    claims.commit(Batch("a", (server("a", "h0"),)))
    with pytest.raises(Conflict) as caught:
        claims.commit(Batch("b", (server("b", "h1"),), same_host_as=("a",)))
    assert caught.value.kind == "same-host"
    with pytest.raises(Conflict) as caught:
        claims.commit(Batch("b", (server("b", "h0"),), different_host_from=("a",)))
    assert caught.value.kind == "different-host"
    claims.commit(Batch("b", (server("b", "h0"),), same_host_as=("a",), different_host_from=("nobody",)))
    claims.commit(Batch("c", (server("c", "h1"),), different_host_from=("a",)))


def test_soft_policies_are_not_kept_at_commit(claims):
    """A wish stops nothing."""
    wish = Membership("g", Policy.SOFT_ANTI_AFFINITY)
    claims.commit(Batch("a", (server("a", "h0", membership=wish),)))
    claims.commit(Batch("b", (server("b", "h0", membership=replace(wish, member_index=1)),)))
    assert [claim.membership.member_index for claim in claims.members("g")] == [0, 1]


def test_a_guard_stops_its_own_batch_alone(claims):
    """What a guard raises is raised to whoever gave it, and claims nothing; batches of other threads are committed."""

    class TooLate(Exception):
        pass

    def too_late(connection: object) -> None:
        raise TooLate

    def commit(number: int) -> bool:
        try:
            claims.commit(
                Batch(f"k{number}", (volume(f"v{number}", gib=1),)), guard=too_late if number % 3 == 0 else None
            )
        except TooLate:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(commit, range(24)))
    assert done == [number % 3 != 0 for number in range(24)]
    assert {claim.owner for claim in claims.all()} == {f"v{number}" for number in range(24) if number % 3}
    with pytest.raises(TooLate):
        claims.grow("v1", "v1", 2 * GIB, guard=too_late)
    assert claims.of("v1") == (volume("v1", gib=1),)
