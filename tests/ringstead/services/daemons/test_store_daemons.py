"""Expirer and reaper on a real store: what is to go goes, all else stays, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from random import Random

import pytest
import trio

from proxy.accounts import GRAVES, GRAVES_ACCOUNT
from proxy.model import AccountDeleted, ListQuery, NoSuchAccount, NoSuchObject, PutObjectRequest, StoreError
from proxy.names import account_key, container_key
from proxy.reaping import Reaping
from proxy.s3.ownership import BucketRegistry
from proxy.s3.upload_names import parts_container, uploads_container
from proxy.store import ObjectStore
from replicator.expirer import Expirer, ExpirerSettings
from replicator.reaper import Reaper, ReaperSettings
from ringstead.services.daemons.store_daemons import StoreGraves, StoreQueue
from storage_node.timestamp import wall_clock_us
from tests.proxy.test_expiry import ACCOUNT, Time, make_multipart, names, put, queued, take
from tests.proxy.test_store import Body
from tests.support.mortal import Killed, dying_at
from tests.support.small_cluster import SmallCluster, small_cluster

FAST = ExpirerSettings(objects_per_s_max=1e6)


@pytest.fixture(params=[3], ids=[""])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[SmallCluster]:
    """Devices and a container; three devices are enough for most."""
    async with small_cluster(request.param) as running:
        await running.store.create_container(ACCOUNT, b"c", {})
        yield running


async def contents(store: ObjectStore) -> dict[bytes, int]:
    """Names and sizes of what can be read, which must be what is listed."""
    found = {}
    for name in await names(store):
        with suppress(NoSuchObject):
            found[name] = (await store.head_object(ACCOUNT, b"c", name, newest=True)).size_bytes
    assert sorted(found) == sorted(await names(store))
    return found


@pytest.mark.parametrize("cluster", [6], indirect=True)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_random_walk_beside_a_dictionary(cluster: SmallCluster, seed: int) -> None:
    """Puts, new times, deletions, looks of the expirer, time that passes, devices that go and come: in the end exactly what
    should have expired is gone, and the queue is empty."""
    random = Random(seed)
    store, time = cluster.store, Time()
    began_s = time.now_us // 1_000_000
    expirer = Expirer(StoreQueue(store, time), FAST, now_us=time)
    expected: dict[bytes, tuple[int, int | None]] = {}
    down = None
    for step in range(120):
        now_s = time.now_us // 1_000_000
        name = b"%d" % random.randrange(8)
        due_s = random.choice((None, now_s + random.randrange(1, 200)))
        metadata = {} if due_s is None else {"delete-at": str(due_s)}
        action = random.random()
        alive = name in expected and ((at := expected[name][1]) is None or at > now_s)
        if action < 0.4:
            await put(store, name, PutObjectRequest(metadata=metadata), b"x" * step)
            expected[name] = (step, due_s)
        elif action < 0.55 and alive:
            await store.update_object(ACCOUNT, b"c", name, metadata, None)
            expected[name] = (expected[name][0], due_s)
        elif action < 0.65 and alive:
            await store.delete_object(ACCOUNT, b"c", name)
            del expected[name]
        elif action < 0.8:
            time.now_us += random.randrange(60_000_000)
        elif action < 0.95:
            await expirer.look()
        elif down is None:
            down = random.choice(list(cluster.nodes.values()))
            await down.stop()
            await cluster.until_connected(connected=False, nodes=[down])
        else:
            await down.start()
            await cluster.until_connected(connected=True, nodes=[down])
            down = None
    if down is not None:
        await down.start()
        await cluster.until_connected(connected=True, nodes=[down])
    now_s = time.now_us // 1_000_000
    again = Expirer(StoreQueue(store, time), FAST, now_us=time)
    await again.look()
    assert await contents(store) == {
        name: size for name, (size, due_s) in expected.items() if due_s is None or due_s > now_s
    }
    time.at(began_s + 100_000)
    again = Expirer(StoreQueue(store, time), FAST, now_us=time)
    await again.look()
    assert await contents(store) == {name: size for name, (size, due_s) in expected.items() if due_s is None}
    assert await queued(store) == []
    assert again.statistics().backlog == 0


async def test_expirers_do_not_hinder_each_other(cluster: SmallCluster) -> None:
    """Four expirers at once on the same rows: all is deleted, nothing else, and none fails for good."""
    store, time = cluster.store, Time()
    due_s = time.now_us // 1_000_000 + 10
    for number in range(20):
        await put(store, b"%d" % number, PutObjectRequest(metadata={"delete-at": str(due_s)}))
    await put(store, b"kept", PutObjectRequest())
    time.at(due_s + 1000)
    expirers = [Expirer(StoreQueue(store, time), FAST, now_us=time) for _ in range(4)]
    with trio.fail_after(60):
        while await names(store) != [b"kept"] or await queued(store):
            async with trio.open_nursery() as nursery:
                for expirer in expirers:
                    nursery.start_soon(expirer.look)
    assert sum(expirer.statistics().deleted for expirer in expirers) >= 20


async def test_a_note_of_parts_is_cleared_by_the_next_look(
    cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expirer that is cancelled amid the parts is followed by one that removes the rest."""
    store, time = cluster.store, Time()
    due_s = time.now_us // 1_000_000 + 10
    await make_multipart(store, b"big", 8, {"delete-at": str(due_s)})
    time.at(due_s + 1000)
    stopped = Expirer(StoreQueue(store, time), FAST, now_us=time)
    taken, amid = iter(range(4)), trio.Event()

    async def take_four(count: float = 1.0) -> None:
        if next(taken, None) is None:
            amid.set()
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(stopped.pace, "take", take_four)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stopped.look)
        await amid.wait()
        nursery.cancel_scope.cancel()
    parts = parts_container(b"c")
    left = len(await names(store, parts))
    assert 0 < left < 8
    expirer = Expirer(StoreQueue(store, time), FAST, now_us=time)
    await expirer.look()
    assert (await names(store, parts), expirer.statistics().leavings) == ([], 0)
    assert await queued(store) == []


# -------------------------------------------------------------------------------------------------------------- accounts


async def fill(store: ObjectStore, account: str) -> None:
    """An account with containers, objects, a multipart object, an upload in progress, claims."""
    registry = BucketRegistry(store, wall_clock_us)
    for container in (b"one", b"two"):
        await registry.claim(container, account)
        await store.create_container(account, container, {})
        for number in range(12):
            await store.put_object(account, container, b"%d" % number, Body(b"x"), PutObjectRequest())
        for internal in (parts_container(container), uploads_container(container)):
            await store.create_container(account, internal, {})
            await store.put_object(account, internal, b"k\x00id\x0000001\x00a", Body(b"p"), PutObjectRequest())


async def is_empty(store: ObjectStore, account: str) -> bool:
    """Whether nothing of `fill` is left."""
    for container in (b"one", b"two"):
        for name in (container, parts_container(container), uploads_container(container)):
            with suppress(StoreError):
                await store.head_container(account, name)
                return False
        if await BucketRegistry(store, wall_clock_us).owner(container) is not None:
            return False
    return True


async def test_a_deleted_account_is_removed_whole(cluster: SmallCluster) -> None:
    """After the delay nothing is left of it, and it can be made again, empty; another account keeps all it has."""
    store, time = cluster.store, Time()
    await store.put_object(ACCOUNT, b"c", b"kept", Body(b"x"), PutObjectRequest())
    await fill(store, "AUTH_gone")
    await store.delete_account("AUTH_gone")
    with pytest.raises(AccountDeleted):
        await store.head_account("AUTH_gone")
    with pytest.raises(AccountDeleted):
        await store.create_account("AUTH_gone", {})
    with pytest.raises(AccountDeleted):
        await store.ensure_account("AUTH_gone")
    settings = ReaperSettings(delay_s=3600.0, objects_per_s_max=1e6)
    reaper = Reaper(StoreGraves(store, time), settings, now_us=time)
    await reaper.look()
    assert not await is_empty(store, "AUTH_gone")
    assert reaper.statistics().delayed == 1
    time.now_us += 3_700_000_000
    await reaper.look()
    assert await is_empty(store, "AUTH_gone")
    with pytest.raises(NoSuchAccount):
        await store.head_account("AUTH_gone")
    statistics = reaper.statistics()
    assert (statistics.accounts, statistics.containers, statistics.objects) == (1, 2, 28)
    assert await Reaping(store).graves() == []
    assert await store.create_account("AUTH_gone", {})
    assert (await store.list_containers("AUTH_gone", ListQuery())).items == ()
    assert await names(store) == [b"kept"]


@pytest.mark.parametrize("deaths", [1, 14, 16, 28])
async def test_a_reaper_that_dies_is_followed_by_another(cluster: SmallCluster, deaths: int) -> None:
    """Broken off at any object, the next one goes on to the end."""
    store, time = cluster.store, Time()
    await fill(store, "AUTH_gone")
    await store.delete_account("AUTH_gone")
    take_and_die = dying_at(deaths)
    reaping = Reaping(store, time)
    (grave,) = await reaping.graves()
    with suppress(BaseExceptionGroup, Killed):
        await reaping.reap(grave, take_and_die, lambda objects, containers: None)
    with suppress(ValueError):
        (grave,) = await reaping.graves()
        assert await reaping.reap(grave, take, lambda objects, containers: None)
    assert await is_empty(store, "AUTH_gone")
    assert await reaping.graves() == []


async def test_a_row_without_a_mark_removes_nothing(cluster: SmallCluster) -> None:
    """Whoever died between the row for the reaper and the mark has deleted nothing; the row goes when it is old."""
    store, time = cluster.store, Time()
    await fill(store, "AUTH_kept")
    await store.create_container(GRAVES_ACCOUNT, GRAVES, {})
    await store.put_row(GRAVES_ACCOUNT, GRAVES, b"AUTH_kept", store.cluster.clock.stamp(), 0, 0, b"")
    reaping = Reaping(store, time)
    (grave,) = await reaping.graves()
    time.now_us += 60_000_000
    assert not await reaping.reap(grave, take, lambda objects, containers: None)
    time.now_us += 7_200_000_000
    assert await reaping.reap(grave, take, lambda objects, containers: None)
    assert await reaping.graves() == []
    assert (await store.head_account("AUTH_kept")).container_count == 2
    assert store.cluster.place(container_key(GRAVES_ACCOUNT, GRAVES)).need == 2
    assert reaping.rank() == 0


async def test_rows_without_objects_go_too(cluster: SmallCluster) -> None:
    """A container that lists a name whose object is gone, and an account that lists a container that never was."""
    store = cluster.store
    await store.create_container("AUTH_gone", b"one", {})
    stamp = store.cluster.clock.stamp
    await store.put_row("AUTH_gone", b"one", b"ghost", stamp(), 0, 7, b"")
    await store._put_account_row("AUTH_gone", b"never", stamp(), deleted=False, only_if_new=False)
    await store.delete_account("AUTH_gone")
    reaping = Reaping(store)
    (grave,) = await reaping.graves()
    with trio.fail_after(30):
        assert await reaping.reap(grave, take, lambda objects, containers: None)
    with pytest.raises(NoSuchAccount):
        await store.head_account("AUTH_gone")


@pytest.mark.parametrize("cluster", [6], indirect=True)
async def test_an_account_that_nobody_can_be_asked_about_is_left(cluster: SmallCluster) -> None:
    """With all devices of a deleted account away the reaper forgets nothing; when they are back it goes on."""
    store = cluster.store
    await fill(store, "AUTH_gone")
    await store.delete_account("AUTH_gone")
    reaping = Reaping(store)
    (grave,) = await reaping.graves()
    home = cluster.primaries(account_key("AUTH_gone"))
    for node in home:
        cluster.cluster.replicas[node.ring_device.id].reader = None  # as on another machine
        await node.stop()
    await cluster.until_connected(connected=False, nodes=home)
    with pytest.raises(StoreError):
        await reaping.reap(grave, take, lambda objects, containers: None)
    for node in home:
        await node.start()
    await cluster.until_connected(connected=True, nodes=home)
    assert await reaping.graves() == [grave]
    assert await reaping.reap(grave, take, lambda objects, containers: None)
    assert await is_empty(store, "AUTH_gone")
