"""Faults: which, when, for how long; and how all of them end.

Each seed draws which kinds it has at all (few kinds many times find other things than all kinds at once) and how often.
Faults that destroy what was on stable storage (rot, a failed fdatasync, wrong reads, an emptied disk) strike one machine
of a run only: each name has at most one replica there, and no promise holds where a majority of replicas is destroyed.
All others strike anywhere, several at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from random import Random

import trio

from ring.moves import moving_dir
from ring.ring_file import load
from storage_node.device import Device
from storage_node.errors import DeviceError
from tests.sim.cluster import Machine, SimCluster, whole
from tests.sim.disk import SURVIVALS, SimDisk
from tests.sim.world import Process, Violation, grid

ROTTING = ("log/*.seg", "blobs/*/*")
Fault = Callable[[], Awaitable[None]]


class Faults:
    """All that goes wrong in a run."""

    def __init__(self, cluster: SimCluster, random: Random, only: tuple[str, ...] = ()) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._random = random
        self._nursery: trio.Nursery
        self._scope = trio.CancelScope()
        self.victim = random.choice(cluster.machines)
        """The one machine whose disk may destroy something."""
        kinds: list[tuple[str, Fault, int]] = [
            ("a process is killed", self._kill, 4),
            ("a process dies in a call to its disk", self._die_in_call, 4),
            ("a machine loses power", self._power, 4),
            ("all machines lose power", self._blackout, 1),
            ("a machine is cut off", self._cut_off, 3),
            ("the network is cut in two", self._cut_in_two, 2),
            ("a link is cut one way", self._cut_one_way, 3),
            ("connections are reset", self._reset, 2),
            ("a machine's network is slow", self._slow_network, 2),
            ("a disk is slow", self._slow_disk, 2),
            ("a disk is full", self._full, 2),
            ("a clock jumps", self._skew, 3),
            ("an fdatasync fails", self._fail_sync, 2),
            ("bytes rot", self._rot, 3),
            ("reads fail", self._unreadable, 1),
            ("reads give wrong bytes", self._wrong_reads, 1),
            ("a disk is emptied", self._wipe, 1),
        ]
        chosen = [kind for kind in kinds if random.random() < 0.5] or kinds
        if only:
            chosen = [kind for kind in kinds if kind[0] in only]
        self._kinds = chosen
        self._weights = [weight for _, _, weight in chosen]
        self._mean_s = random.choice((2.0, 6.0, 15.0))
        self._skew_max_s = cluster.shape.skew_max_s

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until stopped."""
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                if self._cluster.shape.moves:
                    self._nursery.start_soon(self._change_rings)
                while True:
                    await trio.sleep(grid(self._random.expovariate(1 / self._mean_s)))
                    ((name, fault, _),) = self._random.choices(self._kinds, self._weights)
                    self._world.note(f"     fault: {name}")
                    self._world.counts[f"fault: {name}"] += 1
                    await fault()

    def stop(self) -> None:
        """No new ones; those that last are cut short."""
        self._scope.cancel()

    def _for_a_while(self, seconds_max: float, end: Callable[[], None], what: str) -> None:
        seconds = grid(self._random.uniform(0.5, seconds_max))

        async def later() -> None:
            await trio.sleep(seconds)
            self._world.note(f"     ended: {what}")
            end()

        self._world.note(f"     {what} for {seconds:.1f} s")
        self._nursery.start_soon(later)

    def _machine(self) -> Machine:
        return self._random.choice(self._cluster.machines)

    # ------------------------------------------------------------------------------------------------------------ deaths

    async def _kill(self) -> None:
        machine = self._machine()
        kind = self._random.choice(self._cluster.kinds(machine))
        process = machine.processes.get(kind)
        if process is not None and process.alive:
            self._world.note(f"     {process} is killed")
            self._cluster.kill(process)
            self._world.nursery.start_soon(self._cluster.restart, machine, kind, grid(self._random.uniform(0.1, 15)))

    async def _die_in_call(self) -> None:
        self._machine().disk.calls_to_live = self._random.choice((1, 3, 10, 40))

    async def _power(self) -> None:
        await self._power_off([self._machine()])

    async def _blackout(self) -> None:
        await self._power_off(self._cluster.machines)

    async def _power_off(self, machines: list[Machine]) -> None:
        machines = [machine for machine in machines if machine.up]
        survival = self._random.choice(SURVIVALS)
        self._world.note(f"     {machines} lose power; of what was not synced survives: {survival}")
        for machine in machines:
            machine.up = False
        for machine in machines:
            await self._cluster.power_off(machine, survival)
        for machine in machines:
            seconds = grid(self._random.uniform(1, 60))
            self._world.nursery.start_soon(self._power_on, machine, seconds)

    async def _power_on(self, machine: Machine, after_s: float) -> None:
        await trio.sleep(after_s)
        if not machine.up:
            self._world.note(f"     {machine} has power again")
            self._cluster.power_on(machine)

    # ----------------------------------------------------------------------------------------------------------- network

    async def _cut_off(self) -> None:
        machine = self._machine()
        others = [other for other in self._cluster.machines if other is not machine]
        links = [(machine, other) for other in others] + [(other, machine) for other in others]
        self._cut(links, f"{machine} is cut off")

    async def _cut_in_two(self) -> None:
        machines = self._cluster.machines
        some = self._random.sample(machines, self._random.randint(1, len(machines) - 1))
        rest = [machine for machine in machines if machine not in some]
        links = [(a, b) for a in some for b in rest] + [(b, a) for a in some for b in rest]
        self._cut(links, f"{sorted(m.name for m in some)} are cut off from the others")

    async def _cut_one_way(self) -> None:
        a, b = self._random.sample(self._cluster.machines, 2)
        others = [b] if self._random.random() < 0.6 else [m for m in self._cluster.machines if m is not a]
        self._cut([(a, other) for other in others], f"nothing gets from {a} to {others}")

    def _cut(self, links: list[tuple[Machine, Machine]], what: str) -> None:
        net = self._cluster.net
        fresh = [link for link in links if (link[0].name, link[1].name) not in net.cut]
        for source, target in fresh:
            net.cut_link(source, target)

        def mend() -> None:
            for source, target in fresh:
                net.cut.discard((source.name, target.name))
            net.look_again()

        self._for_a_while(40, mend, what)

    async def _reset(self) -> None:
        self._cluster.net.reset_some(self._random.choice((1, 5, 30)))

    async def _slow_network(self) -> None:
        machine = self._machine()
        self._cluster.net.slow[machine.name] = self._random.choice((0.1, 0.5, 4.0))
        self._for_a_while(30, lambda: self._cluster.net.slow.update({machine.name: 0.0}), f"{machine} is far away")

    # ------------------------------------------------------------------------------------------------------ disk, clock

    async def _slow_disk(self) -> None:
        disk = self._machine().disk
        disk.slow_s = self._random.choice((0.02, 0.2, 1.0, 4.0))
        self._for_a_while(30, lambda: setattr(disk, "slow_s", 0.0), f"{disk.root.name}'s syncs take {disk.slow_s} s")

    async def _full(self) -> None:
        disk = self._machine().disk
        disk.full = True
        self._for_a_while(30, lambda: setattr(disk, "full", False), f"{disk.root.name} is full")

    async def _skew(self) -> None:
        machine = self._machine()
        machine.skew_us = int(self._random.uniform(-self._skew_max_s, self._skew_max_s) * 1e6)
        self._world.note(f"     {machine}'s clock is {machine.skew_us / 1e6:.1f} s ahead")

    async def _fail_sync(self) -> None:
        self.victim.disk.fail_syncs = 1
        self._world.note(f"     the next fdatasync of {self.victim} fails")
        self._nursery.start_soon(self._attend, grid(self._random.uniform(5, 60)))

    async def _attend(self, after_s: float) -> None:
        """The operator looks after the victim."""
        await trio.sleep(after_s)
        with whole(f"release the fence of {self.victim}"):
            await release_fence(self._cluster, self.victim)

    async def _change_rings(self) -> None:
        """Devices are drained, and come back, while all else goes on. The operator is on any machine that runs."""
        while True:
            await trio.sleep(grid(self._random.uniform(10, 60)))
            machine = self._machine()
            if not machine.up or (
                moving_dir(machine.ring_file).exists() and any(moving_dir(machine.ring_file).glob("*.ring"))
            ):
                continue
            known = load(machine.ring_file)
            if known.epoch != self._cluster.ring.epoch:
                continue  # an operator makes rings from the newest that there is
            drained = self._random.choice((-1, -1, *range(len(self._cluster.machines))))
            self._cluster.change_ring(machine, drained)
            self._world.note(f"     ring {self._cluster.ring.epoch} at {machine}: drained is {drained}")
            self._world.counts["fault: the ring changes"] += 1

    async def _rot(self) -> None:
        for _ in range(self._random.choice((1, 1, 5))):
            what = self.victim.disk.rot(self.victim.device_path, ROTTING)
            self._world.note(f"     {self.victim}: rot in {what or 'nothing'}")

    async def _unreadable(self) -> None:
        disk = self.victim.disk
        disk.unreadable = self._random.choice((0.05, 0.5))
        self._for_a_while(20, lambda: setattr(disk, "unreadable", 0.0), f"{self.victim} can't read")

    async def _wrong_reads(self) -> None:
        disk = self.victim.disk
        disk.wrong = self._random.choice((0.05, 0.5))
        self._for_a_while(20, lambda: setattr(disk, "wrong", 0.0), f"{self.victim} reads wrong bytes")

    async def _wipe(self) -> None:
        """The operator puts an empty disk in the place of the victim's."""
        machine = self.victim
        if not machine.up:
            return
        await self._cluster.power_off(machine, "none")
        machine.disk.full = False
        machine.disk.calls_to_live = None
        machine.disk.fail_syncs = 0
        shutil.rmtree(machine.device_path)
        maker = Process(self._world, f"make {machine} again", machine)
        machine.disk.forget_all()
        Device.create(
            machine.device_path,
            machine.device_name,
            disk=SimDisk(machine.disk, maker),
            random_bytes=maker.random_bytes,
            filling=True,
        )
        maker.alive = False
        self._world.nursery.start_soon(self._power_on, machine, grid(self._random.uniform(1, 30)))

    # -------------------------------------------------------------------------------------------------------------- end

    async def heal(self) -> None:
        """End all: links are whole, everything runs, disks work, the operator has released fences. Clocks stay wrong."""
        cluster = self._cluster
        cluster.net.mend()
        for machine in cluster.machines:
            disk = machine.disk
            disk.full = False
            disk.fail_syncs = 0
            disk.slow_s = disk.unreadable = disk.wrong = 0.0
            disk.calls_to_live = None
        for machine in cluster.machines:
            if not machine.up:
                cluster.power_on(machine)
        with trio.move_on_after(120) as scope:
            while not all(cluster.running(machine) for machine in cluster.machines):
                await trio.sleep(1.0)
        if scope.cancelled_caught:
            stuck = [machine for machine in cluster.machines if not cluster.running(machine)]
            raise Violation(f"{stuck} don't come up: {[machine.processes for machine in stuck]}")
        for machine in cluster.machines:
            await release_fence(cluster, machine)


async def release_fence(cluster: SimCluster, machine: Machine) -> None:
    """What an operator does about a fenced device: starts its service again, and releases it."""
    device = machine.device
    if device is None or not device.fenced:
        return
    cluster.world.note(f"     {machine}: the operator releases the fence: {device.fenced}")
    process = machine.processes.get("storage")
    if process is None or not machine.up:
        return
    cluster.kill(process)
    await cluster.restart(machine, "storage", 0.5)
    with trio.move_on_after(20):
        while machine.device is None or machine.device is device:
            await trio.sleep(0.5)
    if machine.device is not None and machine.device.fenced:
        try:
            machine.device.release_fence()
        except (DeviceError, OSError) as error:
            cluster.world.note(f"     {machine}: the fence stays: {error}")
