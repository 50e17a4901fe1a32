"""Several controllers at the same moment: threads with connections of their own, against SQLite and PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, event

from scheduler.booking import Booking
from scheduler.claims.claim import Batch, Claim, HostLimit, HostShare, Quota, Role, SrLimit
from scheduler.claims.sql import SqlClaims
from scheduler.claims.sums import wrong_sums
from scheduler.database import open_engine
from scheduler.errors import ClaimStateError, Conflict, KeyReused, NoValidHost, QuotaExceeded
from scheduler.metadata import METADATA
from scheduler.placement.inventory import Inventory
from scheduler.placement.request import Disk, Membership, Policy, ServerRequest
from tests.scheduler.placement.worlds import GIB, flavor, host, sr

CONTROLLERS = 4


@pytest.fixture(params=["sqlite", "postgresql"])
def engines(request, tmp_path) -> Iterator[list[Engine]]:
    """An engine for each controller, of one empty database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'claims.db'}"
    else:
        url = request.getfixturevalue("postgresql").new_url()
    made = [open_engine(url) for _ in range(CONTROLLERS)]
    METADATA.create_all(made[0])
    yield made
    for engine in made:
        engine.dispose()


def at_once(count: int, work: Callable[[int], object]) -> list[object]:
    """What `work(0..count-1)` returns, each in a thread of its own, all begun together."""
    gate = threading.Barrier(count)

    def run(number: int) -> object:
        gate.wait(30)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def booking(engine: Engine, hosts, srs, seed: int) -> Booking:
    """A controller's scheduler, with the picture of an empty cloud."""
    return Booking(Inventory(hosts, srs, seed=1), SqlClaims(engine, lambda: 0.0), seed=seed)


def test_the_last_place_is_given_once(engines):
    """Four controllers fill a cloud at the same time: all of it is given out, nothing twice, the rest is refused."""
    hosts = [host(number, memory_mib=8192, pcpus=4) for number in range(3)]
    srs = [sr(0, (0, 1, 2), gib=90)]
    SqlClaims(engines[0], lambda: 0.0).set_limits(map(HostLimit.of, hosts), map(SrLimit.of, srs))
    schedulers = [booking(engine, hosts, srs, seed) for seed, engine in enumerate(engines)]

    def work(number: int) -> Counter[str]:
        done: Counter[str] = Counter()
        for turn in range(5):
            name = f"s{number}-{turn}"
            request = ServerRequest(name, "p", flavor(2048, 1), disks=(Disk(f"{name}-root", 5 * GIB),))
            try:
                schedulers[number].book(request, name)
                done["placed"] += 1
            except NoValidHost:
                done["refused"] += 1
        return done

    total = sum(at_once(CONTROLLERS, work), Counter())
    assert total == {"placed": 12, "refused": 8}  # 3 hosts x 8 GiB / 2 GiB
    assert wrong_sums(engines[0]) == []
    assert all(usage.memory_mib == 8192 for usage in schedulers[0].claims.usage()[0])


def test_rivals_of_a_group_do_not_meet(engines):
    """Members of an anti-affinity group that are placed at the same moment land apart; one too many is refused."""
    hosts = [host(number) for number in range(3)]
    SqlClaims(engines[0], lambda: 0.0).set_limits(map(HostLimit.of, hosts))
    for turn in range(4):
        group = Membership(f"g{turn}", Policy.ANTI_AFFINITY)
        schedulers = [booking(engine, hosts, [], seed) for seed, engine in enumerate(engines)]

        def work(number: int, schedulers=schedulers, group=group, turn=turn) -> str | None:
            request = ServerRequest(f"s{turn}-{number}", "p", flavor(512, 1), membership=group)
            try:
                return schedulers[number].book(request, request.server_id).host_id
            except NoValidHost:
                return None

        where = at_once(CONTROLLERS, work)
        assert sorted(map(str, where)) == ["None", "h0", "h1", "h2"]
    assert wrong_sums(engines[0]) == []


def test_an_affinity_group_begins_on_one_host(engines):
    """First members of an affinity group that are placed at the same moment on different hosts: one host wins."""
    SqlClaims(engines[0], lambda: 0.0).set_limits([HostLimit(f"h{n}", 8192, 8) for n in range(CONTROLLERS)])
    for turn in range(4):
        group = Membership(f"g{turn}", Policy.AFFINITY)

        def work(number: int, group=group, turn=turn) -> str:
            claim = Claim(f"s{turn}-{number}", "p", HostShare(f"h{number}", 512, 1), (), group)
            try:
                SqlClaims(engines[number], lambda: 0.0).commit(Batch(claim.owner, (claim,)))
            except Conflict as error:
                return error.kind
            return "placed"

        assert sorted(at_once(CONTROLLERS, work)) == ["group", "group", "group", "placed"]


def test_one_key_claims_once(engines):
    """A request that arrives at all controllers at once is placed once, and all answer alike."""
    hosts = [host(number) for number in range(4)]
    SqlClaims(engines[0], lambda: 0.0).set_limits(map(HostLimit.of, hosts))
    schedulers = [booking(engine, hosts, [], seed) for seed, engine in enumerate(engines)]
    for turn in range(8):
        request = ServerRequest(f"s{turn}", "p", flavor(256, 1))

        def work(number: int, request=request, turn=turn) -> tuple[Claim, ...]:
            return schedulers[number].book(request, f"key{turn}").change.claims

        assert len(set(at_once(CONTROLLERS, work))) == 1
    assert sum(usage.memory_mib for usage in schedulers[0].claims.usage()[0]) == 8 * 256


def test_a_quota_is_shared_out_once(engines):
    """Controllers that claim for one project at the same moment stay within its quota."""
    claims = [SqlClaims(engine, lambda: 0.0) for engine in engines]
    claims[0].set_limits([HostLimit(f"h{n}", 8192, 8) for n in range(CONTROLLERS)])
    claims[0].set_quota("p", Quota(servers=3))

    def work(number: int) -> int:
        done = 0
        for turn in range(2):
            claim = Claim(f"s{number}-{turn}", "p", HostShare(f"h{number}", 512, 1))
            try:
                claims[number].commit(Batch(claim.owner, (claim,)))
                done += 1
            except QuotaExceeded:
                pass
        return done

    assert sum(at_once(CONTROLLERS, work)) == 3
    assert claims[0].quota("p")[1].servers == 3


def test_release_and_move_at_once(engines):
    """A server that is released while another controller moves it is gone or refused the move, never half there."""
    claims = [SqlClaims(engine, lambda: 0.0) for engine in engines]
    claims[0].set_limits([HostLimit(f"h{n}", 8192, 8) for n in range(2)])
    for turn in range(8):
        held = Claim(f"s{turn}", "p", HostShare("h0", 512, 1))
        claims[0].commit(Batch(f"make-{turn}", (held,)))

        def work(number: int, turn=turn) -> None:
            name = f"s{turn}"
            if number % 2:
                claims[number].release([name])
                return
            target = Claim(name, "p", HostShare("h1", 512, 1), role=Role.TARGET)
            try:
                claims[number].commit(Batch(f"move-{turn}-{number}", (target,)))
                claims[number].finish_move([name])
            except ClaimStateError:
                pass

        at_once(CONTROLLERS, work)
        left = claims[0].of(f"s{turn}")
        assert left == ()
    assert wrong_sums(engines[0]) == []


def test_threads_of_one_controller_share_transactions(engines):
    """Batches that wait while another syncs are committed together; one that is refused takes none with it."""
    claims = SqlClaims(engines[0], lambda: 0.0)
    claims.set_limits([HostLimit("h0", 8 * 512, 64)])
    commits = []
    event.listen(engines[0], "commit", commits.append)

    def work(number: int) -> bool:
        if number == 16:
            deadline_s = time.monotonic() + 30
            while len(claims._queue) < 16 and time.monotonic() < deadline_s:
                pass
            claims._turn.release()
            return False
        try:
            claims.commit(Batch(f"k{number}", (Claim(f"s{number}", "p", HostShare("h0", 512, 1)),)))
        except Conflict:
            return False
        return True

    claims._turn.acquire()  # as if a transaction were under way
    assert at_once(17, work).count(True) == 8
    assert len(commits) == 1
    assert wrong_sums(engines[0]) == []
    winner = next(claims.all()).owner
    with pytest.raises(KeyReused):
        claims.commit(Batch(winner.replace("s", "k"), (Claim("other", "p", HostShare("h0", 1, 1)),)))
