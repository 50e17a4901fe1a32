"""A service that follows the rings: those in force at its node's ring file, and those that other nodes have.

Problem: a proxy, an updater or a replicator runs for months while devices come and go; it must take on a newer ring between
two requests, keep the older ones in force as long as their data moves, and notice when a device's folder appears on this
machine.

Idea: look at file and folder once a second (two calls to `stat`), load what has changed, and hand it to whatever places
things (`adopt`). Beside it `RingSpread` asks other nodes over the connections that are there anyway.

Invariant: a ring file that is damaged or another cluster's changes nothing; it is logged once, and `problem` says it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
import trio

from ring.ring import Ring
from ringstead.rings.in_force import devices_of_node, load_generations
from ringstead.rings.spread import RingSpread, Source

Sources = Callable[[], Iterable[Source]]

LOOK_S: Final = 1.0
"""How often file and folder are looked at."""

log = structlog.get_logger("ringstead.ring_following")


class FollowsRings(Protocol):
    """What a ring change is handed to: `proxy.cluster.Cluster`, `replicator.peers.Peers` and their like."""

    def adopt(self, rings: Sequence[Ring], local_devices: Mapping[int, Path]) -> None:
        """Let these be the rings in force, newest first."""
        ...


class RingFollower:
    """The rings in force for one service. `config` is its settings: ring_file, node, devices_dir.

    `absent_too`: devices of this node count as local whether their folders are there or not.
    """

    def __init__(self, config: Any, *, absent_too: bool = False) -> None:
        """Load them. Raises ConfigError."""
        self._absent_too = absent_too
        self._node: str = config.node
        self._devices_dir: Path = config.devices_dir
        self.generations = load_generations(config.ring_file)
        self._local = self.local_devices()
        self._spread = RingSpread(config.ring_file, config.node)
        self._problem = ""

    @property
    def rings(self) -> tuple[Ring, ...]:
        """In force, newest first."""
        return self.generations.rings

    @property
    def problem(self) -> str:
        """Why something that is there is not followed; empty if all is well."""
        spread = next((f"{node}: {why}" for node, why in self._spread.problems.items()), "")
        return self.generations.problem or spread

    def local_devices(self) -> dict[int, Path]:
        """Directories of this machine's devices, under all rings in force."""
        devices = devices_of_node(reversed(self.rings), self._node, self._devices_dir)
        return {number: path for number, path in devices.items() if self._absent_too or path.is_dir()}

    async def catch_up(self, followers: Sequence[FollowsRings], sources: Sources) -> None:
        """Ask all other nodes that can be reached once, and follow what they know: to be done before anything is served.

        This node may have been away while data moved, and what it knows of may be out of force.
        """
        await self._spread.ask_all(sources())
        self._look(followers)

    async def run(self, followers: Sequence[FollowsRings], sources: Sources, look_s: float = LOOK_S) -> None:
        """Let all of `followers` have the rings in force until cancelled; `sources` are devices to ask for rings."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._spread.run, sources)
            while True:
                self._look(followers)
                await trio.sleep(look_s)

    def _look(self, followers: Sequence[FollowsRings]) -> None:
        changed = self.generations.look()
        local = self.local_devices()
        if changed or local != self._local:
            self._local = local
            for follower in followers:
                follower.adopt(self.rings, local)
            log.info("rings in force", epochs=[ring.epoch for ring in self.rings])
        problem = self.generations.problem
        if problem != self._problem:
            self._problem = problem
            if problem:
                log.error("the ring file is not followed", reason=problem)
