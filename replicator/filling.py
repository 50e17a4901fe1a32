"""When a device that was made anew is filled: every primary of all that it holds was compared with it, and agreed.

Problem: an empty device that was put in the place of another says that it has nothing, also of what the other acknowledged.
Until it has all of that again its answers must not make a majority (proxy/majority.py). Who says when it has?

Idea: the node's own replicator, for it compares everything with everybody anyway. A cell (a partition, of a kind of thing)
is *proven* for such a device once a round has found it alike on all its primaries, every one of them answering. Proofs need
not come in one round: the device forgets nothing that it has taken since it was made. When none is missing the device is
told (MarkFilled), and writes that down. What is written meanwhile does no harm: a write that misses this device is on a
majority of the others, as any.

A device that the newest ring does not have was given up by the operator and is not waited for.

A new cluster begins so: all its devices are being filled, all are empty, all agree in the first round in which everybody
answers.

Rejected: counting bytes or names (of what?); the device itself asking its peers (it knows no ring); believing one round in
which nothing was left to do but not everybody had answered (who was silent may have been the only one that knew); believing
that what a round has settled is settled (what lies on this machine is listed by a reader, which for a second may still have
the files of the device before: the next round's digests are the devices' own).

Invariants: what is proven is forgotten when the device says that it is another filling, or another device, and MarkFilled
names the filling that was read before the first comparison; a proof is never taken from silence.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from replicator.differences import Membership
from replicator.peers import Peers
from replicator.rounds import SPACES, Round
from storage_node.operations import FoundStatistics, GetStatistics, MarkFilled, Space, Status

MARK_TIMEOUT_S: Final = 10.0

log = structlog.get_logger("replicator")


class _Device:
    """One filling of one device."""

    def __init__(self, filling: str) -> None:
        self.filling = filling
        self.proven: dict[Space, NDArray[np.bool_]] = {}
        """For each space the cells that are."""
        self.lacking = 0
        """Cells that are not, as of the last round."""


class Filling:
    """The devices of this machine that are being filled."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._devices: dict[int, _Device] = {}

    @property
    def lacking(self) -> dict[str, int]:
        """Devices of this machine that are being filled, by name, and the cells that are not proven yet."""
        by_id = self._peers.by_id
        return {
            by_id[number].device.name: device.lacking for number, device in self._devices.items() if number in by_id
        }

    async def look(self) -> None:
        """Before a round compares anything: which of this machine's devices are being filled."""
        before, self._devices = self._devices, {}
        for peer in self._peers.local:
            answer = await peer.client.call(GetStatistics(), timeout_s=MARK_TIMEOUT_S)
            found = answer.statistics if isinstance(answer, FoundStatistics) else None
            number = peer.device.id
            known = before.get(number)
            if found is None and known is not None:
                self._devices[number] = known
            elif found is not None and found.filling:
                same = known is not None and known.filling == found.filling
                self._devices[number] = known if known is not None and same else _Device(found.filling)

    async def take_note(self, found: Round, membership: Membership, kept: Collection[int]) -> None:
        """A round has ended; `kept` are the devices that the newest ring has."""
        if not self._devices:
            return
        cells = 1 << membership.bits
        silent = membership.touching(set(kept).intersection(found.silent))
        doubtful: dict[int, NDArray[np.bool_]] = {space: silent.copy() for space in SPACES}
        for cell in found.elsewhere:
            doubtful[cell.space][cell.number] = True
        for result in found.results:
            if not result.alike:
                doubtful[result.cell.space][result.cell.number] = True
        for number, device in list(self._devices.items()):
            its = membership.touching((number,))
            device.lacking = 0
            for space in SPACES:
                proven = device.proven.get(space)
                if proven is None or len(proven) != cells:  # the ring's partitions are others: begin again
                    proven = device.proven[space] = np.zeros(cells, dtype=np.bool_)
                if number not in found.silent:
                    proven |= its & ~doubtful[space]
                device.lacking += int((its & ~proven).sum())
            if not device.lacking and number not in found.silent:
                await self._mark(number, device)

    async def _mark(self, number: int, device: _Device) -> None:
        peer = self._peers.by_id.get(number)
        if peer is None:
            return
        answer = await peer.client.call(MarkFilled(device.filling), timeout_s=MARK_TIMEOUT_S)
        if answer.status == Status.APPLIED:
            del self._devices[number]
            log.info("a device is filled", device=peer.device.name)
