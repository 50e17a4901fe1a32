"""What a simulator keeps on disk: snapshot and journal, read back whole whatever moment it was left at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.latency import INSTANT
from scheduler.xen.simulator.pool import Account, Pool
from scheduler.xen.simulator.run import BadSetting, Settings, listen, make_server
from scheduler.xen.simulator.saved import SNAPSHOT, Keeper, Unreadable
from scheduler.xen.simulator.site import Site
from tests.scheduler.xen.simulator.world import World


def keep(world: World, folder: Path) -> Keeper:
    """A keeper of a world's pools."""
    keeper = Keeper(folder)
    keeper.begin(world.site)
    return keeper


def read(world: World, folder: Path) -> list[Pool]:
    """The pools as they would be after a start."""
    keeper = Keeper(folder)

    def new_pool(index: int) -> Pool:
        name = f"new{index}"
        return Pool(name, clock=lambda: world.now, disks=world.disks, seed=name, latencies=INSTANT, account=Account())

    pools = keeper.load(new_pool)
    keeper._lock.close()
    return pools


def records(pool: Pool) -> dict[str, Any]:
    """All that there is, but for sessions, which end."""
    classes = ("pool", "host", "VM", "VM_metrics", "VDI", "SR", "VBD", "VIF", "PBD", "console", "task", "message")
    return {row.ref: row.record() for cls in classes for row in pool.database.rows(cls)}


def test_the_journal_alone_brings_everything_back(world: World, tmp_path: Path) -> None:
    """After each of many calls, what would be read is what there is."""
    folder = tmp_path / "state"
    folder.mkdir()
    client = world.one
    keeper = keep(world, folder)
    host = client.hosts()[0]
    calls: list[tuple[Any, ...]] = [("vm",), ("VM.start_on", "vm", host, False, False), ("VM.snapshot", "vm", "point")]
    calls += [("VM.hard_shutdown", "vm"), ("VM.destroy", "vm"), ("VDI.destroy", "disk")]
    vm = disk = ""
    for method, *arguments in calls:
        if method == "vm":
            vm = client.vm()
            disk = client.disk_of(vm)
        else:
            client(method, *[{"vm": vm, "disk": disk}.get(each, each) if each else each for each in arguments])
        keeper.note()
        keeper._lock.close()
        (pool,) = read(world, folder)
        assert records(pool) == records(world.site.pools[0]), method


def test_a_line_that_was_not_written_whole_is_dropped(world: World, tmp_path: Path) -> None:
    """Cut at every byte of its last line, the journal gives the state before it."""
    folder = tmp_path / "state"
    folder.mkdir()
    keeper = keep(world, folder)
    world.one("pool.set_name_label", world.one("pool.get_all")[0], "before")
    keeper.note()
    (journal,) = folder.glob("journal-*.jsonl")
    whole = journal.stat().st_size
    world.one("pool.set_name_label", world.one("pool.get_all")[0], "after")
    keeper.note()
    keeper._lock.close()
    data = journal.read_bytes()
    for length in range(whole, len(data), 97):
        journal.write_bytes(data[:length])
        assert read(world, folder)[0].row["name_label"] == "before"
    journal.write_bytes(data)
    assert read(world, folder)[0].row["name_label"] == "after"


def test_disks_and_records_are_made_to_agree(world: World, tmp_path: Path) -> None:
    """Bytes without a record go, a record without bytes gets an empty disk."""
    folder = tmp_path / "state"
    folder.mkdir()
    kept = world.one.vdi(world.one.shared_sr())
    keep(world, folder).close()
    world.disks.create("stray", 4096)
    world.disks.remove(kept.removeprefix("OpaqueRef:"))
    read(world, folder)
    assert "stray" not in world.disks.stored()
    assert world.one.read(kept, 0, 1) == b"\0"


def test_what_was_dead_is_dead_and_noticed(world: World, tmp_path: Path) -> None:
    """A host that died before a restart is called dead when its lag is over after it."""
    folder = tmp_path / "state"
    folder.mkdir()
    keeper = keep(world, folder)
    host = world.one.pool.database.rows("host")[1]
    world.site.kill(world.one.pool, host)
    keeper.note()
    keeper._lock.close()
    pools = read(world, folder)
    site = Site(pools)
    again = pools[0].database.get("host", host.ref)
    assert pools[0].is_live(again)
    with pytest.raises(Failure, match="CANNOT_CONTACT_HOST"):
        pools[0].reach(again)
    world.now += 601
    site.run_due(world.now)
    assert not pools[0].is_live(again)


def test_what_cannot_be_read_is_told(world: World, tmp_path: Path) -> None:
    """Another version, nonsense, and a folder in use."""
    folder = tmp_path / "state"
    folder.mkdir()
    keeper = keep(world, folder)
    with pytest.raises(Unreadable, match="used by another"):
        Keeper(folder)
    keeper.close()
    path = folder / SNAPSHOT
    state = json.loads(path.read_bytes())
    for broken in (
        b"nonsense",
        b"{}",
        json.dumps({**state, "version": 99}).encode(),
        json.dumps({**state, "pools": 3}).encode(),
    ):
        path.write_bytes(broken)
        with pytest.raises(Unreadable):
            read(world, folder)


def test_a_folder_is_for_the_pools_that_it_was_made_for(tmp_path: Path) -> None:
    """Another number of pools is refused; a pool that lost a host keeps the others' addresses."""
    settings = Settings(port=0, state=tmp_path, seed="1", latency=0.0)
    sockets = listen(settings)
    keeper = Keeper(tmp_path)
    server = make_server(settings, tmp_path, sockets, keeper, lambda: 0.0)
    pool = server.site.pools[0]
    second = pool.database.rows("host")[1]
    urls = dict(pool.urls)
    server.site.kill(pool, second)
    for row in (*pool.database.all("VM", second["resident_VMs"]), second):
        pool.database.remove(row)
    keeper.close()
    keeper = Keeper(tmp_path)
    again = make_server(settings, tmp_path, sockets, keeper, lambda: 0.0).site.pools[0]
    assert again.urls == {ref: url for ref, url in urls.items() if ref != second.ref}
    keeper.close()
    more = Settings(port=0, state=tmp_path, pools=2)
    with pytest.raises(BadSetting, match="was made for 1 pools"):
        make_server(more, tmp_path, sockets, Keeper(tmp_path), lambda: 0.0)
    for each in sockets:
        each.close()
