"""One run: a cluster, a workload, faults; then all heals, and everything must be as it was promised.

Two phases, as TigerBeetle's simulator has them. Safety: for some virtual minutes clients work while faults come and go, and
no answer may be wrong. Liveness: all faults end, and within HEAL_S of virtual time every replica must agree, no handoff may
hold anything, and every total must be exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import trio

from storage_node.operations import FoundDigests, GetDigests
from tests.sim.cluster import Shape, SimCluster
from tests.sim.faults import Faults
from tests.sim.workload import Unsettled, Workload
from tests.sim.world import Violation, World

HEAL_S = 1800.0
LOOK_S = 10.0
CALM_LOOKS = 6
NAMELESS = "is a file that nothing names"


class Result(NamedTuple):
    """How a run ended."""

    seed: int
    trace_hash: str
    virtual_s: float
    counts: Counter[str]
    failure: BaseException | None
    trace: list[str]


@dataclass(frozen=True)
class Plan:
    """How long and how hard. `change` is given the cluster before it starts: canaries are let in there."""

    busy_s: float = 240.0
    faults: bool = True
    change: Callable[[SimCluster], None] = lambda cluster: None


def run_seed(seed: int, plan: Plan = Plan(), *, echo: bool = False) -> Result:
    """Do it. Never raises for what the run finds: that is in `failure`."""
    world = World(seed, echo)
    with world.deterministic():
        shape = Shape.draw(world.stream("shape"))
        cluster = SimCluster(world, shape)
        try:
            trio.run(_run, world, cluster, plan, clock=world.clock)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            if world.failure is None:
                world.failure = error
        finally:
            cluster.remove()
    return Result(seed, world.trace_hash, world.now_s, world.counts, world.failure, world.trace)


async def _run(world: World, cluster: SimCluster, plan: Plan) -> None:
    world.note(f"seed {world.seed}: {cluster.shape}")
    async with trio.open_nursery() as nursery:
        world.nursery = nursery
        try:
            await nursery.start(cluster.net.run)
            plan.change(cluster)
            await cluster.start()
            random = world.stream("workload")
            workload = Workload(cluster, random, clients=random.choice((2, 4, 6)), pause_s=random.choice((1.0, 3.0)))
            await workload.prepare()
            faults = Faults(cluster, world.stream("faults"))
            async with trio.open_nursery() as busy:
                if plan.faults:
                    await busy.start(faults.run)
                busy.start_soon(workload.run)
                await trio.sleep(plan.busy_s)
                workload.stopping = True
                busy.cancel_scope.deadline = trio.current_time() + 120.0
                faults.stop()
            world.note("all heals")
            await faults.heal()
            await _until_healed(world, cluster, workload)
            _check_devices(cluster)
        except trio.Cancelled:
            raise
        except BaseException as error:
            world.fail(error)
        nursery.cancel_scope.cancel()


async def _until_healed(world: World, cluster: SimCluster, workload: Workload) -> None:
    """Until replicas agree, nothing lies astray, and listings and totals are exact; Violation if that takes too long."""
    deadline_s = trio.current_time() + HEAL_S
    calm = 0
    while True:
        await trio.sleep(LOOK_S)
        problem = disagreement(cluster)
        calm = 0 if problem else calm + 1
        if calm and calm % CALM_LOOKS == 0:
            try:
                await workload.check_healed()
                return
            except Unsettled as error:
                problem = str(error)
                world.note(f"not yet: {problem}")
        if problem and trio.current_time() > deadline_s:
            raise Violation(f"not healed after {HEAL_S} s: {problem}")


def disagreement(cluster: SimCluster) -> str:
    """Where replicas differ or something lies astray; "" if nothing does."""
    held: dict[int, list[tuple[bytes, ...]]] = {}
    for machine in cluster.machines:
        if machine.device is None:
            return f"{machine} has no device"
        found = []
        for space in (0, 1, 2):
            answer = machine.device.read(GetDigests(space, 0, 0, cluster.ring.part_power))
            assert isinstance(answer, FoundDigests)
            found.append(answer.digests)
        held[machine.number] = found
    for partition in range(cluster.ring.part_count):
        primaries = [device.id for device in cluster.ring.primaries(partition)]
        for space in (0, 1, 2):
            if len({held[number][space][partition] for number in primaries}) > 1:
                return f"space {space}, partition {partition}: the primaries {primaries} differ"
            for number, digests in held.items():
                if number not in primaries and digests[space][partition] != bytes(16):
                    return f"space {space}, partition {partition}: d{number}, which is none of {primaries}, holds something"
    return ""


def _check_devices(cluster: SimCluster) -> None:
    """Every device is in order, but for what rot has left behind."""
    for machine in cluster.machines:
        device = machine.device
        assert device is not None
        findings = device.check(deep=True)
        damaged = any(text.startswith("log:") for text in findings)
        # Where the log is damaged, a blob that nothing names may have been named there: it is kept.
        wrong = [text for text in findings if not text.startswith("log:") and not (damaged and NAMELESS in text)]
        if wrong:
            raise Violation(f"{machine.device_name}: {wrong[:5]}")
