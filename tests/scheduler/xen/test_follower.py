"""The picture follows the pool, and says so when it does not."""

from __future__ import annotations

import contextlib

import pytest
import trio

from scheduler.hypervisor import HypervisorError, PowerAction, PowerState, Unreachable, WrongState
from scheduler.xen import follower
from scheduler.xen.driver import XenPool
from tests.scheduler.xen.simulated import GIB, MIB, Simulation, driving, server_spec


async def until_away(pool: XenPool) -> str:
    """Wait until the pool's inventory is refused; the reason."""
    with trio.fail_after(30):
        while True:
            try:
                await pool.inventory()
            except Unreachable as error:
                return str(error)
            await trio.sleep(0.05)


async def until(pool: XenPool, what: str, holds: object) -> None:
    """Wait until a host's inventory is as told."""
    with trio.fail_after(15):
        while [getattr(host, what) for host in (await pool.inventory()).hosts] != holds:
            await trio.sleep(0.05)


async def test_capacity(sim: Simulation, pool: XenPool) -> None:
    """What the pool says: memory free now, sizes, who reaches what."""
    inventory = await pool.inventory(fresh=True)
    first = inventory.hosts[0]
    dom0 = 64 * GIB - first.memory_overhead_bytes - first.memory_free_bytes
    assert 2 * GIB <= dom0 < 2 * GIB + 64 * MIB
    assert (first.vcpu_count, first.enabled, first.live, first.is_master) == (16, True, True, True)
    assert len(inventory.srs) == 3
    assert [sr.type for sr in inventory.srs if sr.shared] == ["nfs"]
    assert inventory.pool == sim.pool().row.uuid
    assert "Debian Bookworm 12" in inventory.templates
    assert inventory.vms == ()


async def test_changes_arrive_by_themselves(sim: Simulation, pool: XenPool) -> None:
    """A name, a flag, a VM that somebody else made: in the inventory without asking for a fresh one."""
    sim.pool().database.set(sim.host(1), enabled=False)
    sim.settle()
    await until(pool, "enabled", [True, False])
    other = sim.xen_pool()
    inventory = await other.inventory()
    await other.create_server(server_spec(inventory, memory_bytes=GIB), inventory.hosts[0].uuid)
    await other.close()
    with trio.fail_after(10):
        while not (await pool.inventory()).vms:
            await trio.sleep(0.02)


async def test_memory_follows_starts(sim: Simulation, pool: XenPool) -> None:
    """What a started VM takes is gone from what is free."""
    inventory = await pool.inventory(fresh=True)
    host = inventory.hosts[0]
    await pool.create_server(server_spec(inventory, memory_bytes=GIB), host.uuid)
    await pool.power("s1", PowerAction.START, host.uuid)
    after = (await pool.inventory(fresh=True)).hosts[0]
    assert GIB <= host.memory_free_bytes - after.memory_free_bytes < GIB + 64 * MIB


async def test_lost_events(sim: Simulation, pool: XenPool) -> None:
    """EVENTS_LOST: everything is read again, and what was missed is there."""
    await pool.inventory()
    sim.pool().database.set(sim.host(1), enabled=False)
    sim.pool().database.forget_changes()
    sim.settle()
    await until(pool, "enabled", [True, False])
    assert [host.enabled for host in (await pool.inventory(fresh=True)).hosts] == [True, False]


async def test_errors_and_cuts_of_events_pass(sim: Simulation, pool: XenPool) -> None:
    """The loop goes on after whatever the pool does to it."""
    for what in (
        {"cut": "before"},
        {"cut": "during"},
        {"error": ["INTERNAL_ERROR", "x"]},
        {"error": ["SESSION_INVALID", "x"]},
    ):
        sim.fault("event.from", count=1, **what)
    sim.pool().database.set(sim.host(0), enabled=False)
    sim.settle()
    with trio.fail_after(20):
        while True:
            try:
                if [host.enabled for host in (await pool.inventory(fresh=True)).hosts] == [False, True]:
                    break
            except HypervisorError:
                pass
            await trio.sleep(0.05)


async def test_own_probes_are_ahead_of_the_pool(sim: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that died or hangs is not live within seconds, while the pool says "live" for ten minutes; it comes
    back as fast."""
    monkeypatch.setattr(follower, "PROBE_EVERY_S", 0.1)
    monkeypatch.setattr(follower, "PROBE_S_MAX", 0.5)
    async with driving(sim.xen_pool()) as pool:
        await until(pool, "live", [True, True])
        sim.site.kill(sim.pool(), sim.host(1))
        sim.settle()
        await until(pool, "live", [True, False])
        assert sim.pool().is_live(sim.host(1))
        sim.site.revive(sim.pool(), sim.host(1))
        sim.settle()
        await until(pool, "live", [True, True])
        sim.site.hang(sim.host(1))
        await until(pool, "live", [True, False])


async def test_a_master_that_hangs_is_a_pool_that_is_away(sim: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and never answers: within two probes every inventory is Unreachable and names it, although no
    call has run into its deadline; when it answers again the pool is back."""
    monkeypatch.setattr(follower, "PROBE_EVERY_S", 0.1)
    monkeypatch.setattr(follower, "PROBE_S_MAX", 0.5)
    async with driving(sim.xen_pool(call_timeout_s=60.0)) as pool:
        await until(pool, "live", [True, True])
        sim.site.hang(sim.host(0))
        assert "its master" in await until_away(pool)
        with pytest.raises(Unreachable, match="is silent"):
            await pool.inventory(fresh=True)
        sim.site.revive(sim.pool(), sim.host(0))
        sim.settle()
        with trio.fail_after(30):
            while True:
                with contextlib.suppress(Unreachable):
                    await pool.inventory()
                    return
                await trio.sleep(0.05)


async def test_a_pool_that_is_away(sim: Simulation) -> None:
    """An inventory of something that cannot be asked is Unreachable, never an old picture; when it is back, it is
    picked up."""
    async with driving(sim.xen_pool(call_timeout_s=2.0)) as pool:
        await pool.inventory()
        for host in (sim.host(0), sim.host(1)):
            sim.site.kill(sim.pool(), host)
        sim.settle()
        with pytest.raises(Unreachable):
            await pool.inventory(fresh=True)
        for host in (sim.host(0), sim.host(1)):
            sim.site.revive(sim.pool(), host)
        sim.settle()
        with trio.fail_after(20):
            while True:
                try:
                    assert len((await pool.inventory()).hosts) == 2
                    break
                except Unreachable:
                    await trio.sleep(0.1)


async def test_a_pool_that_is_away_at_the_start(sim: Simulation) -> None:
    """`run` starts all the same, and says what is the matter."""
    sim.site.kill(sim.pool(), sim.host(0))
    async with driving(sim.xen_pool(call_timeout_s=1.0)) as pool:
        assert isinstance(pool.trouble, Unreachable)
        with pytest.raises(Unreachable):
            await pool.inventory()


async def test_hosts_are_disabled_and_declared_dead(
    sim: Simulation, pool: XenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead only when it is silent to us and to its master: two hosts must never write to one disk."""
    monkeypatch.setattr(follower, "PROBE_S_MAX", 0.3)
    inventory = await pool.inventory()
    second = inventory.hosts[1].uuid
    await pool.set_host_enabled(second, False)
    await pool.set_host_enabled(second, False)
    assert [host.enabled for host in (await pool.inventory(fresh=True)).hosts] == [True, False]
    await pool.set_host_enabled(second, True)
    await pool.create_server(server_spec(inventory, host=1), second)
    await pool.power("s1", PowerAction.START, second)
    with pytest.raises(WrongState):
        await pool.declare_dead(second)
    sim.site.hang(sim.host(1))
    with pytest.raises(WrongState, match="master reaches"):
        await pool.declare_dead(second)
    sim.site.kill(sim.pool(), sim.host(1))
    sim.settle()
    await pool.declare_dead(second)
    found = await pool.find_server("s1")
    assert found is not None
    assert (found.power, found.host) == (PowerState.HALTED, "")


async def test_without_following_every_inventory_is_asked_for(sim: Simulation) -> None:
    """A picture that no events keep is never given for the state of now."""
    pool = sim.xen_pool()
    await pool.inventory()
    sim.pool().database.set(sim.host(1), enabled=False)
    sim.settle()
    assert [host.enabled for host in (await pool.inventory()).hosts] == [True, False]
    await pool.close()
