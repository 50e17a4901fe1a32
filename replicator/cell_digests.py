"""The digests of all cells of all devices, kept current with as few bytes as can be.

Problem: a round begins with the digests of every cell of every device, some hundred kilobytes; and mostly next to nothing
has changed since the last round.

Idea: keep what a device said last. Digests are XORs, so the digest of many cells together follows from theirs: ask the
device for the one digest of everything it holds; if that is what its cells as known here make, nothing has changed. If not,
ask for the digests of a few dozen parts, then for the cells of those parts that are not as known. One object that changed
costs three questions and a few kilobytes; a device where much has changed is asked for everything at once.

Invariants: a table that is handed out is what the device said, each part of it in this round or proved unchanged in it; a
device that does not answer is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from replicator.differences import Digests, unpack_digests
from replicator.peers import Peers, submit_all
from storage_node.operations import Answer, FoundDigests, GetDigests, Status

PART_BITS: Final = 6
"""A device is first asked for the digests of 2**PART_BITS parts."""
PARTS_MAX: Final = 16
"""If more of them than this have changed, it is asked for all cells at once."""


class Question(NamedTuple):
    """A GetDigests to one device."""

    device: int
    bits: int = 0
    prefix: int = 0
    fan_out_bits: int = 0


class CellDigests:
    """What the devices of `peers` hold, by space and cell."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._known: dict[tuple[int, int], Digests] = {}
        """(device, space) -> what it said last."""

    async def refresh(self, space: int, bits: int) -> dict[int, Digests]:
        """The digests of 2**bits cells, of each device that answers."""
        devices = tuple(self._peers.by_id)
        self._known = {key: table for key, table in self._known.items() if key[0] in self._peers.by_id}
        current: dict[int, Digests] = {}
        whole: list[int] = []
        changed: list[int] = []
        for question, top in (await self._ask(space, [Question(device) for device in devices])).items():
            known = self._known.get((question.device, space))
            if known is None or len(known) != 1 << bits:
                whole.append(question.device)
            elif (fold(known, 0) == top).all():
                current[question.device] = known
            else:
                changed.append(question.device)
        updates = await self._find_stale(space, bits, changed, whole)
        for device in {question.device for question in updates}:
            current[device] = self._known[device, space].copy()
        answers = await self._ask(space, updates)
        for question in updates:
            device = question.device
            if question in answers and device in current:
                width = 1 << question.fan_out_bits
                current[device][question.prefix * width : (question.prefix + 1) * width] = answers[question]
            else:
                current.pop(device, None)
        everything = await self._ask(space, [Question(device, fan_out_bits=bits) for device in whole])
        current |= {question.device: table for question, table in everything.items()}
        for device, table in current.items():
            self._known[device, space] = table
        return current

    async def _find_stale(self, space: int, bits: int, changed: Sequence[int], whole: list[int]) -> list[Question]:
        """What to ask devices that have changed a little; those that have changed much are put on `whole`."""
        part_bits = min(PART_BITS, bits)
        updates: list[Question] = []
        parts = await self._ask(space, [Question(device, fan_out_bits=part_bits) for device in changed])
        for question, found in parts.items():
            device = question.device
            known = fold(self._known[device, space], part_bits)
            stale = np.flatnonzero(np.any(known != found, axis=1)).tolist()
            if len(stale) > PARTS_MAX:
                whole.append(device)
            else:
                updates += [Question(device, part_bits, part, bits - part_bits) for part in stale]
        return updates

    async def _ask(self, space: int, questions: Sequence[Question]) -> dict[Question, Digests]:
        """What devices answer; those that do not are left out."""
        by_id = self._peers.by_id
        asked = [question for question in questions if question.device in by_id]
        answers = await submit_all([(by_id[q.device], GetDigests(space, *q[1:])) for q in asked])
        return {
            question: digests
            for question, answer in zip(asked, answers, strict=True)
            if (digests := _digests_of(answer, question.fan_out_bits)) is not None
        }


def _digests_of(answer: Answer, fan_out_bits: int) -> Digests | None:
    if not isinstance(answer, FoundDigests) or answer.status != Status.FOUND:
        return None
    return unpack_digests(answer.digests) if len(answer.digests) == 1 << fan_out_bits else None


def fold(table: Digests, bits: int) -> Digests:
    """The digests of 2**bits parts, from those of all cells."""
    folded: Digests = np.bitwise_xor.reduce(table.reshape(1 << bits, -1, 2), axis=1)
    return folded
