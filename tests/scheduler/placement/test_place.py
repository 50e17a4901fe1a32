"""Placement against the same rule in plain Python, and the sentences that it explains itself with."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from scheduler.booking import batch_for
from scheduler.claims.claim import Role
from scheduler.errors import ClaimStateError, Conflict, NoValidHost, NoValidSr
from scheduler.placement import filters, reasons, weighers
from scheduler.placement.inventory import Inventory
from scheduler.placement.place import explain, place, place_volume
from scheduler.placement.request import (
    Disk,
    Membership,
    Nearness,
    Policy,
    ServerRequest,
    VolumeRequest,
)
from scheduler.placement.settings import PlacementSettings
from tests.scheduler.placement.naive import NaivePlacement
from tests.scheduler.placement.worlds import (
    GIB,
    claims_of,
    clouds,
    flavor,
    host,
    inventory_of,
    requests,
    sr,
)

ANY_SETTINGS = st.builds(
    PlacementSettings,
    spread=st.sampled_from([1.0, -1.0, 0.0]),
    ring=st.sampled_from([1.0, 0.0, 3.0]),
    image=st.sampled_from([0.25, 0.0]),
    volume=st.sampled_from([0.5, 0.0]),
    soft_affinity=st.sampled_from([2.0, 0.5]),
    choice_count=st.integers(1, 4),
    choice_margin=st.sampled_from([0.03, 0.0, 1.0]),
    alternate_count=st.integers(0, 4),
    sr_spread=st.booleans(),
)


def compare(data) -> None:
    """Place a few servers on a small cloud, and hold each placement against the plain rule."""
    hosts, srs = data.draw(clouds())
    claims = claims_of(hosts, srs)
    inventory = inventory_of(hosts, srs, claims)
    ids = st.sampled_from([f"s{number}" for number in range(12)])
    failures = data.draw(st.dictionaries(st.sampled_from([h.host_id for h in hosts]), st.integers(1, 4), max_size=2))
    inventory.set_failures(failures)
    for number in range(data.draw(st.integers(3, 10))):
        request = data.draw(requests(hosts, srs, ids))
        weights = data.draw(ANY_SETTINGS)
        seed = data.draw(st.integers(0, 5))
        naive = NaivePlacement(hosts, srs, list(claims.all()), 3, failures)
        right = naive.place(request, weights, seed)
        held = claims.of(request.server_id)
        if right is None:
            with pytest.raises(NoValidHost) as caught:
                place(inventory, request, weights, seed=seed)
            assert sum(caught.value.counts.values()) == len(hosts)
        else:
            placement = place(inventory, request, weights, seed=seed)
            found = [
                (each.score, each.host_id, [(disk.disk_id, disk.sr_id) for disk in each.disks])
                for each in (placement.chosen, *placement.alternates)
            ]
            assert found == [right[0], *right[1]]
            if not held or len(held) == 1:
                role = Role.TARGET if held else Role.HELD
                try:
                    change = claims.commit(batch_for(inventory, request, placement.chosen, f"k{number}", role))
                except ClaimStateError:  # another's volume or project, another size: not what is tested here
                    continue
                inventory.apply(change)
                inventory.check()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_fast_is_plain(data):
    """What arrays and masks choose is what filtering, weighing and sorting every host chooses, alternates and SRs too."""
    compare(data)


_steps, _contributions, _ring_hosts = filters.steps, weighers.contributions, Inventory.ring_hosts


def steps_but(word: str):
    """The filters without the one of this word."""
    return lambda inventory, request: (step for step in _steps(inventory, request) if step[0] != word)


def weighers_but(name: str):
    """The weighers without this one."""
    return lambda *asked: (part for part in _contributions(*asked) if part[0] != name)


BROKEN = {
    **{word: (filters, "steps", steps_but(word)) for word in (reasons.MEMORY, reasons.VCPUS, reasons.GROUP)},
    **{name: (weighers, "contributions", weighers_but(name)) for name in ("ring", "image", "failure", "soft-affinity")},
    "ring order": (Inventory, "ring_hosts", lambda *asked: _ring_hosts(*asked)[::-1]),
    "ring start": (
        Inventory,
        "ring_hosts",
        lambda inventory, number, zone, start: _ring_hosts(inventory, number, zone, start + 1),
    ),
}
"""What is broken in the fast path, in whose name, and by what."""


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_fast_path_is_found_out(what, monkeypatch):
    """Without a filter or a weigher, or in another order of the ring, the comparison fails within 80 examples."""
    monkeypatch.setattr(*BROKEN[what])
    phases = [Phase.generate]
    bounds = settings(max_examples=80, deadline=None, database=None, phases=phases, report_multiple_bugs=False)
    with pytest.raises((AssertionError, NoValidHost, pytest.fail.Exception)):
        seed(1)(bounds(given(st.data())(compare)))()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_explanation_agrees_with_placement(data):
    """Exactly one host is chosen if any can be; each other host is turned down or outweighed, as the plain rule has it."""
    hosts, srs = data.draw(clouds())
    inventory = inventory_of(hosts, srs, claims_of(hosts, srs))
    request = data.draw(requests(hosts, srs, st.sampled_from(["s1", "s2"])))
    told = explain(inventory, request)
    naive = NaivePlacement(hosts, srs, [], 3, {})
    by_id = {each.host_id: each for each in hosts}
    assert [verdict.host_id for verdict in told.verdicts] == [each.host_id for each in naive.hosts]
    chosen = [verdict.host_id for verdict in told.verdicts if verdict.kind == "chosen"]
    assert chosen == ([told.placement.chosen.host_id] if told.placement is not None else [])
    for verdict in told.verdicts:
        each = by_id[verdict.host_id]
        able = naive.may(request, each) and naive.disks(request, each, PlacementSettings()) is not None
        assert (verdict.kind in ("chosen", "outweighed")) == able
        assert (verdict.score is not None) == able
        if able:
            assert sum(verdict.weights.values()) == pytest.approx(verdict.score)
        assert verdict.reason
        assert not verdict.reason.endswith(".")


def reasons_of(hosts, srs, request, claims=None) -> dict[str, tuple[str, str]]:
    """(kind, reason) by host id."""
    inventory = inventory_of(hosts, srs, claims or claims_of(hosts, srs))
    return {verdict.host_id: (verdict.kind, verdict.reason) for verdict in explain(inventory, request).verdicts}


@pytest.mark.parametrize(
    ("more", "kind", "reason"),
    [
        ({"memory_mib": 1024}, "memory", "needs 4096 MiB of memory, 1024 MiB free"),
        ({"pcpus": 1, "vcpu_ratio": 1.0}, "vcpus", "needs 2 vCPUs, 1 free"),
        ({"enabled": False}, "disabled", "disabled by an operator"),
        ({"maintenance": True}, "maintenance", "in maintenance"),
        ({"live": False}, "not-live", "does not answer"),
        ({"weight": 0.0}, "drained", "drained: its weight in the ring is 0"),
        ({"zone": 2}, "zone", "is in zone r1z2, r1z1 is asked for"),
        ({"traits": frozenset()}, "trait", "lacks trait gpu"),
        ({"traits": frozenset({"gpu", "old"})}, "trait", "has trait old, which is forbidden"),
        ({"tags": frozenset()}, "tag", "lacks tag gold"),
    ],
)
def test_reason_of_a_host(more, kind, reason):
    """Each thing that can be the matter with a host has its sentence, with figures."""
    good = {"traits": frozenset({"gpu"}), "tags": frozenset({"gold"})}
    hosts = [host(0, **good), host(1, **{**good, **more})]
    request = ServerRequest(
        "s",
        "p",
        flavor(required_traits=frozenset({"gpu"}), required_tags=frozenset({"gold"})),
        zone=(1, 1),
        forbidden_traits=frozenset({"old"}),
    )
    told = reasons_of(hosts, [], request)
    assert told["h0"][0] == "chosen"
    assert told["h1"] == (kind, reason)


def test_reason_of_disks():
    """Too small, of another type, out of reach, and too small for all together: each is said."""
    hosts = [host(number) for number in range(5)]
    srs = [
        sr(0, (0,), volume_types=frozenset({"ssd"})),
        sr(1, (1,), gib=10, volume_types=frozenset({"ssd"})),
        sr(2, (2,), volume_types=frozenset({"disk"})),
        sr(3, (4,), gib=50, volume_types=frozenset({"ssd"})),
    ]
    request = ServerRequest("s", "p", flavor(), disks=(Disk("root", 30 * GIB, "ssd"), Disk("data", 30 * GIB, "ssd")))
    told = reasons_of(hosts, srs, request)
    assert told["h0"][0] == "chosen"
    assert told["h1"] == ("sr-space", "disk root needs 30720 MiB, the SRs in reach take 10240 MiB at most")
    assert told["h2"] == ("sr-type", "no SR in reach offers volume type ssd and takes disk root")
    assert told["h3"][0] == "sr-type"
    assert told["h4"] == ("sr-space", "each of 2 disks fits, all together (61440 MiB) do not")
    there = ServerRequest("t", "p", flavor(), disks=(Disk("old", GIB, volume=True, sr_id="sr0"),))
    assert reasons_of(hosts, srs, there)["h1"] == ("disk-reach", "does not reach SR sr0, where disk old is")


def test_reason_of_company():
    """Servers that must or must not be near are named."""
    hosts = [host(0), host(1), host(2)]
    claims = claims_of(hosts, [])
    inventory = inventory_of(hosts, [], claims)
    group = Membership("web", Policy.ANTI_AFFINITY)
    first = ServerRequest("web-0", "p", flavor(), membership=group, host_ids=frozenset({"h1"}))
    claims.commit(batch_for(inventory, first, place(inventory, first).chosen, "k"))
    second = ServerRequest("web-1", "p", flavor(), membership=replace(group, member_index=1))
    assert reasons_of(hosts, [], second, claims)["h1"] == ("group", "server web-0 of anti-affinity group web is on it")
    apart = ServerRequest("x", "p", flavor(), different_host_from=("web-0",))
    assert reasons_of(hosts, [], apart, claims)["h1"] == ("different-host", "server web-0 is on it")
    beside = ServerRequest("x", "p", flavor(), same_host_as=("web-0",))
    told = reasons_of(hosts, [], beside, claims)
    assert told["h1"][0] == "chosen"
    assert told["h2"] == ("same-host", "server web-0 is not on it")
    lone = ServerRequest("x", "p", flavor(), same_host_as=("nobody",))
    with pytest.raises(NoValidHost):
        place(inventory_of(hosts, [], claims), lone)


def test_no_valid_host_counts_what_is_in_the_way():
    """The error names the server, its size and how many hosts each thing keeps it from."""
    hosts = [host(0, memory_mib=1024), host(1, memory_mib=2048), host(2, enabled=False)]
    with pytest.raises(
        NoValidHost, match=r"server s \(4096 MiB, 2 vCPUs\); of 3 hosts in the way: memory 2, disabled 1"
    ):
        place(inventory_of(hosts, [], claims_of(hosts, [])), ServerRequest("s", "p", flavor()))


def test_no_hosts_at_all():
    """An empty cloud says so."""
    with pytest.raises(NoValidHost, match="there are none"):
        place(inventory_of([], [], claims_of([], [])), ServerRequest("s", "p", flavor()))
    assert explain(inventory_of([], [], claims_of([], [])), ServerRequest("s", "p", flavor())).verdicts == ()


def test_disks_step_back():
    """Where the greedy order finds no way, another is found: no host is turned down that could take all disks."""
    hosts = [host(0)]
    # Most free first, the 30 GiB disk goes to sr0; then 20 (ssd only on sr0) would not fit: it must go to sr1.
    srs = [sr(0, (0,), gib=45, volume_types=frozenset({"ssd"})), sr(1, (0,), gib=40)]
    request = ServerRequest("s", "p", flavor(), disks=(Disk("a", 30 * GIB), Disk("b", 20 * GIB, "ssd")))
    chosen = place(inventory_of(hosts, srs, claims_of(hosts, srs)), request).chosen
    assert {disk.disk_id: disk.sr_id for disk in chosen.disks} == {"a": "sr1", "b": "sr0"}


def test_nearness_of_a_volume():
    """A volume lies on an SR in reach if one takes it, else in the zone, else anywhere, as far as the request allows."""
    hosts = [host(0), host(1), host(2, zone=2)]
    srs = [sr(0, (0,), gib=5), sr(1, (1,), gib=20), sr(2, (2,), zone=2, gib=200)]
    claims = claims_of(hosts, srs)

    def where(near: Nearness, gib: int) -> str | None:
        request = ServerRequest(
            "s", "p", flavor(), host_ids=frozenset({"h0"}), disks=(Disk("v", gib * GIB, near=near, volume=True),)
        )
        try:
            return place(inventory_of(hosts, srs, claims), request).chosen.disks[0].sr_id
        except NoValidHost:
            return None

    assert where(Nearness.HOST, 5) == where(Nearness.ZONE, 5) == where(Nearness.ANYWHERE, 5) == "sr0"
    assert where(Nearness.HOST, 10) is None
    assert where(Nearness.ZONE, 10) == where(Nearness.ANYWHERE, 10) == "sr1"
    assert where(Nearness.ZONE, 100) is None
    assert where(Nearness.ANYWHERE, 100) == "sr2"


def test_volume_alone():
    """A volume goes to an SR of its type, zone and reach that has most of it free; what is in the way is counted."""
    hosts = [host(0), host(1, zone=2)]
    srs = [sr(0, (0,), gib=50), sr(1, (0,), gib=100, foreign_bytes=60 * GIB), sr(2, (1,), zone=2, gib=50)]
    inventory = inventory_of(hosts, srs, claims_of(hosts, srs))
    volume = Disk("v", 30 * GIB, volume=True)
    near = place_volume(inventory, VolumeRequest(volume, "p", zone=(1, 1)), PlacementSettings(choice_count=1))
    assert (near.sr_id, near.alternates) == ("sr0", ("sr1",))
    assert place_volume(inventory, VolumeRequest(volume, "p", host_id="h1")).sr_id == "sr2"
    with pytest.raises(NoValidSr, match=r"volume v \(102400 MiB\); of 3 SRs in the way: sr-space 2, zone 1"):
        place_volume(inventory, VolumeRequest(replace(volume, size_bytes=100 * GIB), "p", zone=(1, 1)))


def test_schedulers_with_other_seeds_draw_apart():
    """Of equal hosts different seeds take different ones, and one seed always the same."""
    hosts = [host(number, traits=frozenset({"gpu"})) for number in range(8)]
    inventory = inventory_of(hosts, [], claims_of(hosts, []))
    even = PlacementSettings(ring=0.0)
    request = ServerRequest("s", "p", flavor())
    drawn = {seed: place(inventory, request, even, seed=seed).chosen.host_id for seed in range(20)}
    assert len(set(drawn.values())) == even.choice_count
    assert drawn == {seed: place(inventory, request, even, seed=seed).chosen.host_id for seed in range(20)}


def test_members_go_to_zones_and_nodes_apart():
    """Members of a group begin in different zones, then on different hosts, by the ring alone."""
    hosts = [host(number, zone=number % 3) for number in range(12)]
    claims = claims_of(hosts, [])
    inventory = inventory_of(hosts, [], claims)
    for group in range(20):
        taken = []
        for index in range(6):
            request = ServerRequest(
                f"g{group}-{index}", "p", flavor(), membership=Membership(f"g{group}", Policy.SOFT_ANTI_AFFINITY, index)
            )
            taken.append(place(inventory, request).chosen.host_id)
        assert len(set(taken)) == 6
        zones = [next(each.zone for each in hosts if each.host_id == host_id) for host_id in taken]
        assert len(set(zones[:3])) == len(set(zones[3:])) == 3


def test_a_new_host_unsettles_only_its_share():
    """With a host more, the ring sends elsewhere only those servers that it sends to the new host."""
    hosts = [host(number, zone=number % 3) for number in range(30)]
    by_ring = PlacementSettings(spread=0.0, choice_count=1)
    before = inventory_of(hosts[:29], [], claims_of(hosts[:29], []))
    after = inventory_of(hosts, [], claims_of(hosts, []))
    moved = 0
    for number in range(2000):
        request = ServerRequest(f"s{number}", "p", flavor())
        old = place(before, request, by_ring).chosen.host_id
        new = place(after, request, by_ring).chosen.host_id
        if old != new:
            moved += 1
            assert new == "h29"
    assert 0 < moved < 2 * 2000 / 30


def test_commit_refuses_what_the_picture_does_not_know():
    """A choice made on an old picture that no longer fits is refused with the reason, and claims nothing."""
    hosts = [host(0)]
    claims = claims_of(hosts, [])
    old = inventory_of(hosts, [], claims)
    big = ServerRequest("a", "p", flavor(12_000))
    claims.commit(batch_for(old, big, place(old, big).chosen, "a"))
    late = ServerRequest("b", "p", flavor(8_000))
    with pytest.raises(Conflict, match="needs 8000 MiB of memory, 4384 MiB free") as caught:
        claims.commit(batch_for(old, late, place(old, late).chosen, "b"))
    assert (caught.value.kind, caught.value.resource) == ("memory", "h0")
    assert claims.of("b") == ()
