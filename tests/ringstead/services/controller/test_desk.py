"""What there is no room or no quota for is refused in the answer itself, on a cloud in memory."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ringstead.services.controller.desk import ServerDesk
from scheduler.claims.claim import Quota
from scheduler.lifecycle import volume_operations
from scheduler.records.types import ServerRecord, SnapshotRecord, VolumeRecord, VolumeState
from tests.scheduler.lifecycle.world import GIB, World

SERVER = {"flavor": "small", "image": "debian"}


async def _asked(world: World, *requests: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers of a controller to these requests, one after the other."""
    controller = world.controller()
    operations = ServerDesk(controller, world.shelf).operations()
    async with trio.open_nursery() as nursery:
        await nursery.start(controller.run)
        answers = []
        for operation, request in requests:
            answers.append(await operations[operation](request))
            await trio.sleep(5)
        nursery.cancel_scope.cancel()
    return answers


def asked(world: World, *requests: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, with a clock that does not wait."""
    return trio.run(_asked, world, *requests, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("operation", "request_", "said"),
    [
        ("server.create", {**SERVER, "name": "big", "flavor": "giant"}, "server big is not created: no host can take"),
        ("server.create", {**SERVER, "name": "far", "zone": "z1", "required_traits": ["gpu"]}, "trait"),
        ("server.create", {**SERVER, "name": "one", "project": "poor"}, "would have 1 servers, its quota is 0"),
        ("volume.create", {"name": "huge", "size_bytes": 100 * GIB}, "volume huge is not created: no SR can take"),
        ("volume.create", {"name": "v", "size_bytes": GIB, "project": "poor"}, "would have 1 volumes, its quota is 0"),
    ],
)
def test_what_finds_no_place_is_refused_at_once(operation: str, request_: dict[str, Any], said: str) -> None:
    """The answer is the reason; nothing is recorded or claimed, and the name is free."""
    world = World()
    world.ask(lambda desk: volume_operations.create_flavor(desk, "giant", 1 << 20, 1, GIB))
    world.claims.set_quota("poor", Quota(servers=0, volumes=0))
    (answer,) = asked(world, (operation, request_))
    assert said in answer["error"]
    assert answer["code"] == 1
    assert not world.records(ServerRecord)
    assert not world.records(VolumeRecord)
    assert not list(world.claims.all())


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("server.create", {**SERVER, "name": "none", "disk_bytes": 0}),
        ("volume.create", {"name": "none", "size_bytes": 0, "image": "debian"}),
    ],
)
def test_a_disk_of_nothing_is_not_the_default(operation: str, request_: dict[str, Any]) -> None:
    """A size of 0 that was asked for makes no sense; only where none was asked for is there a default."""
    world = World()
    (answer,) = asked(world, (operation, request_))
    assert "a disk of 0 bytes is outside" in answer["error"]
    assert answer["code"] == 2
    assert not [*world.records(ServerRecord), *world.records(VolumeRecord)]


def test_templates_and_networks_are_where_they_are() -> None:
    """A server goes to a pool that has its template and network, wherever the ring would have it; what no pool has is
    refused before anything is recorded."""
    world = World()
    world.pools["p2"].templates = ("Debian",)
    wanted = {"flavor": "small", "template": "Debian"}
    requests = [("server.create", {**wanted, "name": f"s{number}"}) for number in range(6)]
    here = {**SERVER, "network": "lan"}
    answers = asked(
        world,
        *requests,
        ("server.create", {**wanted, "name": "other", "template": "Slackware"}),
        ("server.create", {**here, "name": "other", "network": "wan"}),
        ("server.create", {**wanted, "name": "other", "zone": "z1"}),
        ("server.place", {**wanted}),
        ("server.create", {**here, "name": "lan"}),
    )
    assert {world.server(f"s{number}").pool_id for number in range(6)} == {"p2"}
    assert [answer.get("code") for answer in answers] == [None] * 6 + [2, 2, 1, None, None]
    assert "no pool has template 'Slackware'" in answers[6]["error"]
    assert "no pool has network 'wan'" in answers[7]["error"]
    assert "asked-for 2" in answers[8]["error"]
    assert {each["verdict"] for each in answers[9]["hosts"] if each["host"].startswith("p1")} == {"asked-for"}
    assert len(world.records(ServerRecord)) == 7


def test_a_repeated_creation_is_the_same_one() -> None:
    """Who asks again with the same id, since no answer came, gets the server or volume of the first time, and its task."""
    world = World()
    ids = [str(uuid.UUID(int=number)) for number in (1, 2)]
    server = ("server.create", {**SERVER, "name": "web", "id": ids[0]})
    volume = ("volume.create", {"name": "data", "size_bytes": GIB, "id": ids[1]})
    answers = asked(world, server, volume, server, volume, ("server.create", {**SERVER, "name": "x", "id": "../x"}))
    assert [answer.get("task") for answer in answers] == [1, 2, 1, 2, None]
    assert [each.id for each in (*world.records(ServerRecord), *world.records(VolumeRecord))] == ids
    assert "is no UUID" in answers[4]["error"]


def test_what_is_there_stays_when_there_is_no_room_for_more() -> None:
    """A move and an extension without room are refused at once; server and volume are as they were, with the reason."""
    world = World(hosts=1, zones=1)
    answers = asked(
        world,
        ("server.create", {**SERVER, "name": "web"}),
        ("volume.create", {"name": "data", "size_bytes": GIB}),
        ("server.migrate", {"name": "web", "project": "default"}),
        ("volume.extend", {"name": "data", "size_bytes": 100 * GIB}),
    )
    assert ["error" in answer for answer in answers] == [False, False, True, True]
    assert "server web stays where it is: no host can take" in answers[2]["error"]
    assert "volume data stays as it is" in answers[3]["error"]
    assert "lacks" in answers[3]["error"]
    assert world.server("web").state.value == "active"
    assert "no host" in world.server("web").fault
    assert (world.volume("data").state.value, world.volume("data").size_bytes) == ("available", GIB)
    assert "lacks" in world.volume("data").fault


def test_a_zone_may_be_written_short() -> None:
    """Lists of servers, volumes and hosts take `z2` for `r1z2`, as all else does, and refuse what is no zone."""
    world = World()
    answers = asked(
        world,
        ("server.create", {**SERVER, "name": "web", "zone": "z2"}),
        ("volume.create", {"name": "data", "size_bytes": GIB, "zone": "r1z2"}),
        *[
            (f"{noun}.list", {"zone": zone})
            for noun in ("server", "volume")
            for zone in ("z2", "r1z2", "z1", "z9", "x")
        ],
    )
    for noun, found in (("servers", answers[2:7]), ("volumes", answers[7:])):
        assert [len(answer[noun]) for answer in found[:3]] == [1, 1, 0]
        assert "there is no availability zone 'z9'; there are r1z1, r1z2" in found[3]["error"]
        assert "is no zone" in found[4]["error"]
        assert [answer["code"] for answer in found[3:]] == [2, 2]


def test_a_copy_of_a_volume() -> None:
    """It has the source's content and size, in the source's pool wherever that is, and outlives it; what makes no sense is
    refused."""
    world = World()
    answers = asked(
        world,
        ("volume.create", {"name": "data", "image": "debian", "zone": "z2"}),
        *[("volume.create", {"name": f"copy{number}", "source": "data"}) for number in range(4)],
        ("volume.create", {"name": "small", "source": "data", "size_bytes": GIB - 1}),
        ("volume.create", {"name": "both", "source": "data", "image": "debian"}),
        ("volume.create", {"name": "none", "source": "nothing"}),
        ("volume.create", {"name": "far", "source": "data", "zone": "z1"}),
        ("volume.delete", {"name": "data"}),
    )
    assert [answer.get("code") for answer in answers] == [None] * 5 + [2, 2, 2, 1, None]
    copies = world.records(VolumeRecord)
    assert {copy.name for copy in copies} == {f"copy{number}" for number in range(4)}
    pool = world.pools["p2"]
    contents = {disk.disk_id: pool.contents[disk.uuid] for disk in pool.disks.values()}
    for copy in copies:
        assert (copy.state, copy.size_bytes, copy.pool_id) == (VolumeState.AVAILABLE, GIB, "p2")
        assert contents[copy.id].startswith(b"an image")


def test_one_snapshot_of_a_volume_is_deleted() -> None:
    """That one, in the pool and in the records; the volume and its other snapshot stay."""
    world = World()
    answers = asked(
        world,
        ("volume.create", {"name": "data", "size_bytes": GIB}),
        ("volume.snapshot", {"name": "data", "snapshot": "first"}),
        ("volume.snapshot", {"name": "data", "snapshot": "second"}),
        ("volume.snapshot-delete", {"name": "data", "snapshot": "third"}),
        ("volume.snapshot-delete", {"name": "data", "snapshot": "first"}),
    )
    assert "volume data has no snapshot 'third'" in answers[3]["error"]
    [left] = world.records(SnapshotRecord)
    [volume] = world.records(VolumeRecord)
    assert (left.name, volume.state) == ("second", VolumeState.AVAILABLE)
    disks = {disk.disk_id for pool in world.pools.values() for disk in pool.disks.values()}
    assert disks == {volume.id, left.id}
