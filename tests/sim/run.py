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

from storage_node.device import Device
from storage_node.errors import CorruptData
from storage_node.operations import (
    Entry,
    ForgetObject,
    ForgetRow,
    FoundDigests,
    FoundEntries,
    FoundRows,
    GetDigests,
    ListedEntry,
    ListEntries,
    ListRows,
    Row,
    Space,
    Status,
)
from tests.sim.cluster import Shape, SimCluster
from tests.sim.faults import Faults
from tests.sim.last_look import Unsettled, check_healed
from tests.sim.workload import Workload
from tests.sim.world import Violation, World

HEAL_S = 1800.0
OPERATOR_S = 400.0
LOOK_S = 10.0
CALM_LOOKS = 3
NAMELESS = "is a file that nothing names"
BY_ROT = ("log:", "index: a forgotten name")
"""Findings that rot may leave: dead bytes of the log, and notes of what was forgotten, which no replica has."""


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

    busy_s: float = 100.0
    faults: bool = True
    kinds: tuple[str, ...] = ()
    """Only these faults, by name (faults.py); none: those that the seed draws."""
    heal_s: float = HEAL_S
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
            workload = Workload(cluster, random, clients=random.choice((2, 4, 6)), pause_s=random.choice((0.5, 1.5)))
            await workload.prepare()
            faults = Faults(cluster, world.stream("faults"), plan.kinds)
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
            await _until_healed(world, cluster, workload, plan.heal_s)
        except trio.Cancelled:
            raise
        except BaseException as error:
            world.fail(error)
        nursery.cancel_scope.cancel()


async def _until_healed(world: World, cluster: SimCluster, workload: Workload, heal_s: float) -> None:
    """Until replicas agree, nothing lies astray, and listings and totals are exact; Violation if that takes too long."""
    began_s = trio.current_time()
    deadline_s = began_s + heal_s
    calm = 0
    given_up = False
    while True:
        await trio.sleep(LOOK_S)
        problem = disagreement(cluster)
        if problem and not given_up and trio.current_time() - began_s > OPERATOR_S:
            given_up = True
            give_up_rotten(world, cluster)
        calm = 0 if problem else calm + 1
        if calm and calm % CALM_LOOKS == 0:
            try:
                await check_healed(cluster, workload)
                check_devices(cluster)
                return
            except Unsettled as error:
                problem = str(error)
                world.note(f"not yet: {problem}")
        if problem and trio.current_time() > deadline_s:
            raise Violation(f"not healed after {heal_s} s: {problem}")


def give_up_rotten(world: World, cluster: SimCluster) -> None:
    """What an operator does about a version that is rotten where it is, and that is nowhere else: gives it up.

    It was never acknowledged undegraded, or others would have it. One that another device does have must have been
    repaired long before: Violation.
    """
    for machine in cluster.machines:
        assert machine.device is not None
        found = machine.device.read(ListEntries(Space.OBJECT, bytes(16), None, 1000))
        assert isinstance(found, FoundEntries)
        for listed in found.entries:
            entry = listed.entry
            assert isinstance(entry, Entry)
            if entry.deleted or _readable(machine.device, listed, entry):
                continue
            for other in cluster.machines:
                assert other.device is not None
                if other is not machine and _readable(other.device, listed, entry):
                    raise Violation(f"{listed.key!r}: rotten on {machine} and whole on {other}, but not repaired")
            world.note(f"     the operator gives up {listed.key!r} of {entry.timestamp}, rotten on {machine} alone")
            world.counts["operator: gives up a version that is rotten and nowhere else"] += 1
            version = ForgetObject(listed.hash, listed.key, entry.timestamp, entry.meta_timestamp)
            machine.device.apply([version])
            unlist(cluster, listed.key, entry.timestamp)


def unlist(cluster: SimCluster, key: bytes, timestamp: int) -> None:
    """Take a version that was given up out of its container's listing: nothing else does, for want of an object."""
    _, account, container, name = key.split(b"/", 3)
    hash_ = cluster.ring.hash_key(b"/" + account + b"/" + container)
    question = ListRows(Space.CONTAINER, hash_, b"/" + account + b"/" + container, name, name + b"\x00", deleted=True)
    for machine in cluster.machines:
        assert machine.device is not None
        found = machine.device.read(question)
        for row in found.items if isinstance(found, FoundRows) else ():
            if isinstance(row, Row) and row.timestamp == timestamp and not row.deleted:
                machine.device.apply([ForgetRow(Space.CONTAINER, hash_, name, timestamp, row.sub_timestamp)])


def _readable(device: Device, listed: ListedEntry, entry: Entry) -> bool:
    opened = device.open_read(listed.hash, listed.key, entry.timestamp)
    if isinstance(opened, Status):
        return False
    try:
        return len(opened.read(0, entry.size_bytes)) == entry.size_bytes
    except CorruptData:
        return False
    finally:
        opened.close()


def disagreement(cluster: SimCluster) -> str:
    """Where replicas differ or something lies astray; "" if nothing does."""
    held: dict[int, list[tuple[bytes, ...]]] = {}
    for machine in cluster.machines:
        if machine.device is None:
            return f"{machine} has no device"
        if machine.device.filling:
            return f"{machine.device_name} is not filled yet"
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


def check_devices(cluster: SimCluster) -> None:
    """Every device is in order, but for what rot has left behind. Unsettled if not: a scrub may not have come by yet."""
    for machine in cluster.machines:
        device = machine.device
        assert device is not None
        findings = device.check(deep=True)
        damaged = any(text.startswith("log:") for text in findings)
        # Where the log is damaged, a blob that nothing names may have been named there: it is kept.
        wrong = [text for text in findings if not text.startswith(BY_ROT) and not (damaged and NAMELESS in text)]
        if wrong:
            raise Unsettled(f"{machine.device_name}: {wrong[:5]}")
