"""Plans of moves: carried out against real claims, wave by wave, and held against the best there is on small clouds."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.booking import batch_for
from scheduler.claims.claim import Role
from scheduler.errors import NoValidHost, RequestError, SchedulerError
from scheduler.placement.evacuate import plan_evacuation
from scheduler.placement.moves import Caps, PlacedServer
from scheduler.placement.place import place
from scheduler.placement.rebalance import plan_rebalance
from scheduler.placement.request import Disk, Membership, Policy, ServerRequest
from tests.scheduler.placement.worlds import GIB, claims_of, clouds, flavor, host, inventory_of, requests, sr


def fill(hosts, srs, wanted):
    """(claims, servers as they run) after placing what can be placed of these requests."""
    claims = claims_of(hosts, srs)
    inventory = inventory_of(hosts, srs, claims)
    placed = []
    for request in wanted:
        try:
            chosen = place(inventory, request).chosen
            inventory.apply(claims.commit(batch_for(inventory, request, chosen, request.server_id)))
        except SchedulerError:
            continue
        where = {disk.disk_id: disk.sr_id for disk in chosen.disks}
        disks = tuple(replace(disk, sr_id=where[disk.disk_id], movable=disk.sr_id is None) for disk in request.disks)
        placed.append(PlacedServer(replace(request, disks=disks, host_ids=frozenset()), chosen.host_id))
    return claims, placed


def carry_out(plan, hosts, srs, claims, caps):
    """Run a plan as the lifecycle does: every wave claims all its targets, then all of it is finished."""
    pool_of = {each.host_id: each.pool_id for each in hosts}
    for number, wave in enumerate(plan.waves):
        inventory = inventory_of(hosts, srs, claims)
        assert wave
        together = {}
        for move in wave:
            batch = batch_for(inventory, move.server.request, move.to, f"{number}-{len(together)}", Role.TARGET)
            membership = move.server.request.membership
            unit = membership.group_id if membership and membership.policy is Policy.AFFINITY else batch.key
            together.setdefault(unit, []).append((move, batch))
        for moves in together.values():
            batches = [batch for _, batch in moves]
            whole = replace(batches[0], claims=tuple(claim for batch in batches for claim in batch.claims))
            if any(move.server.request.same_host_as for move, _ in moves):
                whole = replace(whole, same_host_as=())
            claims.commit(whole)
        # All that moves in the wave holds both places now: no order in which they end takes more than this.
        host_usage, sr_usage = claims.usage()
        for usage in host_usage:
            assert usage.memory_mib <= usage.limit.memory_mib
            assert usage.vcpus <= usage.limit.vcpus
        assert all(usage.size_bytes <= usage.limit.size_bytes for usage in sr_usage)
        busy, storage = {}, {}
        for move in wave:
            for host_id in (move.server.host_id, move.to.host_id):
                busy[host_id] = busy.get(host_id, 0) + 1
            assert move.pools == (pool_of[move.server.host_id], pool_of[move.to.host_id])
            if move.disks or move.pools[0] != move.pools[1]:
                for pool in set(move.pools):
                    storage[pool] = storage.get(pool, 0) + 1
        assert max(busy.values()) <= caps.host_moves_max
        assert max(storage.values(), default=0) <= caps.pool_storage_moves_max
        for move in wave:
            owners = [move.server.request.server_id, *(d.disk_id for d in move.server.request.disks if d.volume)]
            claims.finish_move([owner for owner in owners if claims.of(owner)])


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_evacuation_can_be_carried_out(data):
    """Every wave finds its room while all of it moves; hosts end up empty but for those whose reason is given."""
    hosts, srs = data.draw(clouds())
    wanted = [data.draw(requests(hosts, srs, st.just(f"s{number}"))) for number in range(data.draw(st.integers(1, 12)))]
    wanted = [replace(request, same_host_as=(), different_host_from=()) for request in wanted]
    claims, placed = fill(hosts, srs, wanted)
    leaving = data.draw(st.frozensets(st.sampled_from([each.host_id for each in hosts]), min_size=1, max_size=3))
    caps = Caps(host_moves_max=8, pool_storage_moves_max=8)
    plan = plan_evacuation(inventory_of(hosts, srs, claims), placed, leaving, caps=caps)
    on_them = {server.request.server_id for server in placed if server.host_id in leaving}
    carry_out(plan, hosts, srs, claims, caps)
    left = {claim.owner for claim in claims.all() if claim.host is not None and claim.host.host_id in leaving}
    assert left == set(plan.stranded) == on_them - {move.server.request.server_id for move in plan.moves}
    moved = [move.server.request.server_id for move in plan.moves]
    assert len(moved) == len(set(moved))
    assert all(plan.stranded.values())


def servers(count: int, host_id: str, memory_mib: int = 2048, start: int = 0) -> list[ServerRequest]:
    """Requests that go to one host."""
    return [
        ServerRequest(f"s{number}", "p", flavor(memory_mib, 1), host_ids=frozenset({host_id}))
        for number in range(start, start + count)
    ]


def test_each_server_moves_once():
    """Where there is room, an evacuation is one move a server and none besides, two at a time by default."""
    hosts = [host(number) for number in range(4)]
    claims, placed = fill(hosts, [], servers(7, "h0"))
    plan = plan_evacuation(inventory_of(hosts, [], claims), placed, ["h0"])
    assert sorted(move.server.request.server_id for move in plan.moves) == [f"s{number}" for number in range(7)]
    assert [len(wave) for wave in plan.waves] == [2, 2, 2, 1]
    assert plan.before["h0"] == 0.875
    assert plan.after["h0"] == 0.0
    carry_out(plan, hosts, [], claims, Caps())


def test_storage_moves_are_three_a_pool():
    """Moves that copy disks run three at a time in a pool, those that copy nothing do not count."""
    hosts = [host(number, memory_mib=65_536, pcpus=16) for number in range(3)]
    local = [sr(number, (number,), gib=500) for number in range(3)]
    wanted = [
        ServerRequest(f"s{n}", "p", flavor(2048, 1), host_ids=frozenset({"h0"}), disks=(Disk(f"d{n}", 10 * GIB),))
        for n in range(7)
    ]
    claims, placed = fill(hosts, local, wanted)
    caps = Caps(host_moves_max=100)
    plan = plan_evacuation(inventory_of(hosts, local, claims), placed, ["h0"], caps=caps)
    assert [len(wave) for wave in plan.waves] == [3, 3, 1]
    assert all(move.copied_bytes == 10 * GIB and move.disks[0].moves_from == "sr0" for move in plan.moves)
    carry_out(plan, hosts, local, claims, caps)
    shared = [sr(0, (0, 1, 2), gib=500)]
    claims, placed = fill(hosts, shared, wanted)
    plan = plan_evacuation(inventory_of(hosts, shared, claims), placed, ["h0"], caps=caps)
    assert [len(wave) for wave in plan.waves] == [7]
    assert not any(move.is_storage_move or move.copied_bytes for move in plan.moves)


def test_room_is_made_where_there_is_none():
    """A server that fits no host gets one by moving a smaller one away first, in an earlier wave."""
    hosts = [host(0), host(1), host(2)]
    wanted = [
        *servers(1, "h0", 12_288, 0),
        *servers(2, "h1", 4096, 1),
        *servers(1, "h2", 8192, 3),
    ]
    claims, placed = fill(hosts, [], wanted)
    plan = plan_evacuation(inventory_of(hosts, [], claims), placed, ["h0"])
    assert plan.stranded == {}
    assert [len(wave) for wave in plan.waves] == [1, 1]
    first, second = plan.moves
    assert (first.server.host_id, first.to.host_id) == ("h1", "h2")
    assert (second.server.request.server_id, second.to.host_id) == ("s0", "h1")
    carry_out(plan, hosts, [], claims, Caps())


def test_stranded_servers_are_named():
    """A server that nothing can take stays, with the reason; the others go."""
    hosts = [host(0), host(1, memory_mib=4096), host(2, zone=2)]
    wanted = [*servers(1, "h0", 12_288), *servers(1, "h0", 2048, 1)]
    wanted = [replace(request, zone=(1, 1)) for request in wanted]
    claims, placed = fill(hosts, [], wanted)
    plan = plan_evacuation(inventory_of(hosts, [], claims), placed, ["h0"])
    assert [move.server.request.server_id for move in plan.moves] == ["s1"]
    assert list(plan.stranded) == ["s0"]
    assert "of 3 hosts in the way" in plan.stranded["s0"]


def test_an_affinity_group_moves_as_one():
    """Members of a hard affinity group go to the same host in the same wave."""
    hosts = [host(number) for number in range(3)]
    group = Membership("g", Policy.AFFINITY)
    wanted = [replace(request, membership=group) for request in servers(2, "h0", 4096)]
    claims, placed = fill(hosts, [], wanted)
    plan = plan_evacuation(inventory_of(hosts, [], claims), placed, ["h0"])
    assert len({move.to.host_id for move in plan.moves}) == len(plan.waves) == 1
    carry_out(plan, hosts, [], claims, Caps())
    assert len({claim.host.host_id for claim in claims.members("g")}) == 1


def levels(hosts, claims) -> list[float]:
    """The load of each host."""
    inventory = inventory_of(hosts, [], claims)
    return [inventory.claimed_share(index) for index in range(len(hosts))]


def fewest_moves(hosts, placed, threshold) -> int:
    """The fewest moves that level the load within the threshold, by trying every assignment."""
    size = {each.host_id: (each.memory_limit_mib, each.vcpus_limit) for each in hosts}
    best = len(placed) + 1
    for goes in product([each.host_id for each in hosts], repeat=len(placed)):
        moves = sum(server.host_id != to for server, to in zip(placed, goes, strict=True))
        if moves >= best:
            continue
        memory, vcpus = dict.fromkeys(size, 0), dict.fromkeys(size, 0)
        for server, to in zip(placed, goes, strict=True):
            memory[to] += server.request.flavor.memory_mib
            vcpus[to] += server.request.flavor.vcpus
        loads = [max(memory[name] / size[name][0], vcpus[name] / size[name][1]) for name in size]
        if max(loads) <= sum(loads) / len(loads) + threshold:
            best = moves
    return best


def unevenness(loads) -> float:
    """The sum of the squares of what each is above or below the mean."""
    mean = sum(loads) / len(loads)
    return sum((load - mean) ** 2 for load in loads)


def gain_of(hosts, loads, request, source: int, target: int) -> float:
    """By how much a move of that server brings both hosts closer to the mean, in squares; small where it brings little."""
    inventory = inventory_of(hosts, [], claims_of(hosts, []))
    mean = sum(loads) / len(loads)
    share = request.flavor.memory_mib / int(inventory.memory_limit[source])
    return (
        (loads[source] - mean) ** 2
        + (loads[target] - mean) ** 2
        - (loads[source] - share - mean) ** 2
        - (loads[target] + share - mean) ** 2
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([1024, 2048, 4096])), min_size=1, max_size=7),
    st.builds(Caps, st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([0.02, 0.15]),
)
def test_rebalance_is_near_the_fewest_moves(rows, caps, threshold):
    """Where it reaches the threshold it takes at most one move more than the best there is; else no move is left that helps.

    Every move makes the load more even, and every wave keeps limits and caps (`carry_out`).
    """
    hosts = [host(number, pcpus=16) for number in range(3)]
    wanted = [request for n, (at, memory) in enumerate(rows) for request in servers(1, f"h{at}", memory, n)]
    claims, placed = fill(hosts, [], wanted)
    before = levels(hosts, claims)
    plan = plan_rebalance(inventory_of(hosts, [], claims), placed, threshold=threshold, caps=caps)
    loads = list(before)
    for move in plan.moves:
        evenness = unevenness(loads)
        share = move.server.request.flavor.memory_mib / hosts[0].memory_limit_mib
        loads[int(move.server.host_id[1:])] -= share
        loads[int(move.to.host_id[1:])] += share
        assert unevenness(loads) < evenness
    carry_out(plan, hosts, [], claims, caps)
    after = levels(hosts, claims)
    assert after == pytest.approx(loads)
    assert list(plan.after.values()) == pytest.approx(after, abs=1e-3)
    assert max(after) <= max(before) + 1e-9
    mean = sum(after) / len(after)
    if max(after) <= mean + threshold:
        assert len(plan.moves) <= fewest_moves(hosts, placed, threshold) + 1
        return
    moved = {move.server.request.server_id for move in plan.moves}
    for server in placed:
        source = int(server.host_id[1:])
        if server.request.server_id in moved or after[source] <= mean + threshold:
            continue
        emptiest = min(range(3), key=lambda index: after[index])
        fits = after[emptiest] + server.request.flavor.memory_mib / hosts[0].memory_limit_mib <= 1
        assert not fits or gain_of(hosts, after, server.request, source, emptiest) <= 1e-4


def test_rebalance_of_many():
    """Ten hosts, one of them full: few moves, each of use, and the rest is left alone."""
    hosts = [host(number, memory_mib=65_536, pcpus=16) for number in range(10)]
    claims, placed = fill(hosts, [], servers(30, "h3"))
    plan = plan_rebalance(inventory_of(hosts, [], claims), placed)
    assert max(plan.after.values()) <= sum(plan.after.values()) / 10 + 0.1
    assert {move.server.host_id for move in plan.moves} == {"h3"}
    assert len(plan.moves) == 24  # 3 servers a host is the mean, 6 are within a tenth of it
    limited = plan_rebalance(inventory_of(hosts, [], claims), placed, moves_max=5)
    assert len(limited.moves) == 5
    carry_out(plan, hosts, [], claims, Caps())


def test_rebalance_stays_among_the_hosts_named():
    """Hosts that are not named neither give nor take."""
    hosts = [host(number) for number in range(4)]
    claims, placed = fill(hosts, [], servers(6, "h0"))
    plan = plan_rebalance(inventory_of(hosts, [], claims), placed, ["h0", "h1", "unknown"])
    assert {move.to.host_id for move in plan.moves} == {"h1"}
    with pytest.raises(RequestError, match="threshold"):
        plan_rebalance(inventory_of(hosts, [], claims), placed, threshold=2.0)


def test_no_host_is_a_place_to_go():
    """With one host alone there is nowhere to go: everything is stranded, nothing fails."""
    hosts = [host(0)]
    claims, placed = fill(hosts, [], servers(2, "h0"))
    plan = plan_evacuation(inventory_of(hosts, [], claims), placed, ["h0"])
    assert plan.moves == ()
    assert sorted(plan.stranded) == ["s0", "s1"]
    with pytest.raises(NoValidHost):
        place(inventory_of(hosts, [], claims), replace(placed[0].request, excluded_host_ids=frozenset({"h0"})))
