"""A newer ring spreads from node to node.

Problem: a ring that was installed at one node must reach all others, by itself, whichever was away when; nobody copies
files, and nothing that is damaged, another cluster's, or made by someone without the key is taken.

Idea: each node asks. Whoever has connections to devices anyway asks each other node, every few seconds, which rings are in
force there (`GetRings`, a few hundred bytes), and at once where a handshake told of a newer epoch; by asking it tells what
it has itself. What is missing here is fetched in pieces, verified as any ring file that is loaded, and joined with what is
in force here (`ring.generations.join`): the older rings that are still in force as well, up to which epoch moves are done,
and the operator's orders. Joining gives the same in whatever order nodes hear of each other, so no node leads.

Rejected: pushing rings to peers (who is away is forgotten, and both ends would have to be trusted to decide); gossip about
third parties (a cluster has dozens of nodes, and each knows them all); a ring server.

Invariants: what is not a whole, sound ring of this cluster, with the epoch and digest that the peer told, changes nothing;
two different rings with one epoch are never mixed: the one that is here stays, and the matter is logged and shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import structlog
import trio
import xxhash

from ring.generations import GENERATIONS_MAX, TooManyMoves, join
from ring.moves import MoveState, MoveStateError, loads, merge
from ring.ring import Ring
from ring.ring_file import RingFileError
from ring.ring_file import loads as load_ring
from ring.topology import Device
from ringstead.rings.files import RingFiles
from storage_node.client import DeviceClient
from storage_node.operations import FoundRings, GetRings, HeldRing, Status

ASK_S: Final = 2.0
"""How often each other node is asked."""
LOOK_S: Final = 0.25
"""How often to look whether a handshake has told of a newer ring."""
AGAIN_S: Final = 0.5
"""How soon again where one has."""
CALL_TIMEOUT_S: Final = 5.0
RING_BYTES_MAX: Final = 1 << 30
"""Larger than any ring; what claims more is not fetched."""

log = structlog.get_logger("ringstead.ring_spread")


class Source(NamedTuple):
    """A device that can be asked for rings."""

    node: str
    client: DeviceClient


class Reached(Protocol):
    """A device that this process is connected to: proxy.cluster.Replica, replicator.peers.Peer."""

    @property
    def device(self) -> Device: ...

    @property
    def client(self) -> DeviceClient: ...


def sources_of(devices: Mapping[int, Reached]) -> list[Source]:
    """Whom to ask, of the devices that a process is connected to."""
    return [Source(reached.device.node, reached.client) for reached in devices.values()]


class Refused(Exception):
    """The peer's: what it gave is no ring that could be taken here."""


def wanted(
    held: Sequence[HeldRing], state: MoveState, theirs: Sequence[HeldRing], their_state: MoveState
) -> list[HeldRing]:
    """What a peer has in force that is missing here, oldest first. Raises Refused for two rings with one epoch."""
    settled_epoch = max(state.settled_epoch, their_state.settled_epoch)
    here = {ring.epoch: ring for ring in held}
    for ring in theirs:
        ours = here.get(ring.epoch)
        if ours is not None and ours.digest != ring.digest:
            raise Refused(
                f"its ring with epoch {ring.epoch} is not the one that is here: two were made; install one with a "
                "higher epoch (`ringstead rebalance start` on the topology that is right)"
            )
    newest = max(here, default=0)
    missing = [ring for ring in theirs if ring.epoch not in here and ring.epoch >= settled_epoch]
    if not missing and theirs and theirs[0].epoch > newest:
        missing = [
            theirs[0]
        ]  # its state is ahead of its rings; what it follows is newer than what is here all the same
    return sorted(missing, key=lambda ring: ring.epoch)[-GENERATIONS_MAX:]


class RingSpread:
    """Keeps the rings at `path` up to date with those of other nodes. `node` is this one: it is not asked."""

    def __init__(self, path: Path, node: str) -> None:
        self._path = path
        self._files = RingFiles(path)
        self._node = node
        self.problems: dict[str, str] = {}
        """Why what a node has is not taken, by node; empty if all is well."""

    async def run(self, sources: Callable[[], Iterable[Source]]) -> None:
        """Ask until cancelled. `sources` are the devices that can be asked at the moment, any number for a node."""
        asked_s = -ASK_S
        while True:
            since_s = trio.current_time() - asked_s
            chosen = self._choose(sources())
            if since_s >= ASK_S or (since_s >= AGAIN_S and self._told_of_newer(chosen)):
                asked_s = trio.current_time()
                await self.ask_all(chosen)
            await trio.sleep(LOOK_S)

    async def ask_all(self, sources: Iterable[Source]) -> None:
        """Ask each other node once."""
        async with trio.open_nursery() as nursery:
            for source in self._choose(sources):
                nursery.start_soon(self._ask, source)

    def _told_of_newer(self, sources: Sequence[Source]) -> bool:
        return max((source.client.peer_ring_epoch for source in sources), default=0) > self._files.epoch()

    def _choose(self, sources: Iterable[Source]) -> list[Source]:
        """One connected device of each other node."""
        chosen = {source.node: source for source in sources if source.node != self._node and source.client.connected}
        return list(chosen.values())

    async def _ask(self, source: Source) -> None:
        problem = ""
        try:
            await take_from(self._path, self._files, source.client)
        except (Refused, RingFileError, MoveStateError, TooManyMoves, OSError, ValueError) as error:
            problem = str(error)
        if problem != self.problems.get(source.node, ""):
            self.problems[source.node] = problem
            if problem:
                log.error("a node's rings are not taken", node=source.node, reason=problem)
        if not problem:
            self.problems.pop(source.node, None)


async def take_from(path: Path, files: RingFiles, client: DeviceClient) -> bool:
    """Join what is in force at a peer with what is in force at `path`; whether there was anything new.

    Raises Refused, and as `ring.generations.join`. A peer that does not answer has nothing new.
    """
    answer = await client.call(GetRings(newest=files.epoch()), timeout_s=CALL_TIMEOUT_S)
    if answer.status != Status.FOUND:
        return False
    their_state = loads(answer.state) if answer.state else MoveState()
    own = files.answer(GetRings())
    state = files.state()
    missing = wanted(own.held, state, answer.held, their_state)
    if not missing and merge(state, their_state) == state:
        return False
    rings: list[Ring] = []
    for held in missing:
        data = await _fetch(client, held)
        if data is None:
            return False
        ring = load_ring(data)
        if ring.epoch != held.epoch:
            raise Refused(f"it calls a ring {held.epoch} whose epoch is {ring.epoch}")
        rings.append(ring)
    join(path, rings, their_state)
    if rings:
        log.info("rings taken over", epochs=[ring.epoch for ring in rings], from_address=client.address)
    return True


async def _fetch(client: DeviceClient, held: HeldRing) -> bytes | None:
    """All bytes of a ring; None if the peer does not have it any more, or is gone. Raises Refused."""
    if held.size_bytes > RING_BYTES_MAX:
        raise Refused(f"its ring with epoch {held.epoch} would have {held.size_bytes} bytes")
    data = bytearray()
    while len(data) < held.size_bytes:
        piece: FoundRings = await client.call(GetRings(held.epoch, len(data)), timeout_s=CALL_TIMEOUT_S)
        if piece.status != Status.FOUND or not piece.data:
            return None
        data += piece.data
    if len(data) != held.size_bytes or xxhash.xxh3_128_digest(data) != held.digest:
        raise Refused(f"its ring with epoch {held.epoch} came damaged")
    return bytes(data)
