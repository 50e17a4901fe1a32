"""Power is cut after every call to the disk of a scripted workload, and amid every commit of the index; and then whatever
was only in memory is kept, lost or torn.

Whatever is left, the device opens without finding damage, is whole (`check`), holds every acknowledged operation, and is in
a state that it went through: that of the operations up to some point between the last acknowledged and the last begun.
What was cut off stays so when there is more behind it. Recovery writes, too: power is cut again after each of its calls.

In the suite every call is cut behind, with nothing, with all, and with a random part of what was in memory; in `make long`
(RINGSTEAD_CRASH_POINTS=all) with every subset of the writes where there are few, many where there are more, and with ten
draws of sectors. Cuts that leave the same bytes are verified once.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

import pytest

from storage_node.operations import PutObject, Status
from tests.storage_node.crash_disk import Choice, Event, Machine, RecordingDisk, Target, read_tree
from tests.storage_node.crash_script import ACKNOWLEDGED, BEGUN, OBJECTS, History, observe
from tests.storage_node.devices import SMALL, StillClock, die, make_device, open_device

ALL = os.environ.get("RINGSTEAD_CRASH_POINTS") == "all"
TORN = 10 if ALL else 2
SUBSETS_MAX = 64 if ALL else 0
AGAIN_EVERY = 50 if ALL else 60
"""Of so many survivors one has its recovery cut as well."""
ROUNDS = 30 if ALL else 10
CUTS_MIN = 850 if ALL else 350
CASES_MIN = 40_000 if ALL else 1_000


@dataclass
class Enumeration:
    """Verifies what cuts leave, each of different content once."""

    target: Target
    states: list[Any]
    cases: Counter[str] = field(default_factory=Counter)
    """Ways in which a cut chose, by what the cut was behind."""
    verified: set[bytes] = field(default_factory=set)
    recoveries: int = 0
    """Cuts amid recoveries."""

    def behind(self, machine: Machine, event: Event, allowed: range, where: str) -> None:
        """A cut behind an event, in many ways."""
        random = Random(where)
        for choice in machine.choices(random, torn=TORN, subsets_max=SUBSETS_MAX):
            self.cases[event.kind] += 1
            self.verify(machine.after_cut(choice), allowed, f"{where}, {choice}")
        for number in range(TORN):
            amid = machine.amid_commit(random)
            if amid is not None:
                self.cases["amid a commit"] += 1
                self.verify(amid, allowed, f"{where}, amid the commit, {number}")

    def verify(self, contents: dict[str, bytes], allowed: range, where: str, *, again: bool = True) -> None:
        """Open what a cut left, twice, and look at it."""
        digest = blake2b(repr(sorted(contents.items())).encode() + repr(allowed).encode()).digest()
        if digest in self.verified:
            return
        self.verified.add(digest)
        if again and len(self.verified) % AGAIN_EVERY == 0:
            self.cut_recovery(contents, allowed, where)
        self.target.lay_out(contents)
        disk = RecordingDisk(str(self.target.path), boot_id="another boot")
        device = open_device(self.target.path, SMALL, disk)
        seen = observe(device)
        assert device._parts.state.damage == [], where
        assert any(seen == self.states[index] for index in allowed), (where, seen)
        found = device.check(deep=True)
        assert found == [], (where, found)
        device.release_fence()
        answers = device.apply([PutObject(*OBJECTS[5], 1000, b"", b"life goes on")])
        assert answers[0].status in (Status.APPLIED, Status.MISSING), (where, answers)
        seen = observe(device)
        die(device)
        # What was cut off must stay so, now that there is more behind it.
        disk.boot = "a third boot"
        device = open_device(self.target.path, SMALL, disk)
        assert observe(device) == seen, where
        assert device.notes == [], where
        device.close()

    def cut_recovery(self, contents: dict[str, bytes], allowed: range, where: str) -> None:
        """Cut power again behind each call of the recovery from a first cut."""
        self.target.lay_out(contents)
        disk = RecordingDisk(str(self.target.path), boot_id="another boot")
        disk.note_index()
        disk.events.clear()
        device = open_device(self.target.path, SMALL, disk)
        disk.note_index()
        die(device)
        machine = Machine(contents)
        random = Random(where)
        survivors = []
        for number, event in enumerate(disk.events):
            machine.feed(event)
            survivors += [
                (machine.after_cut(choice), f"{where}; then amid recovery behind {number} {event[:3]}")
                for choice in machine.choices(random, torn=1, subsets_max=0)
            ]
        self.recoveries += len(disk.events)
        for left, what in survivors:
            self.verify(left, allowed, what, again=False)


@pytest.mark.timeout(7200 if ALL else 300)
def test_a_cut_after_any_call_loses_nothing_acknowledged(memory_path: Path) -> None:
    """Every crash point of the script. Prints how many there were."""
    path = memory_path / "device"
    disk = RecordingDisk(str(path))
    clock = StillClock()
    make_device(path, SMALL, disk, clock).close()
    disk.note_index()
    base = read_tree(path)
    disk.events.clear()
    history = History(open_device(path, SMALL, disk, clock), disk, clock)
    history.run(ROUNDS)
    history.device.close()
    disk.note_index()
    machine = Machine(base)
    enumeration = Enumeration(Target(memory_path / "after"), history.states)
    acknowledged = begun = 0
    cuts: Counter[str] = Counter()
    for number, event in enumerate(disk.events):
        if event.kind in (ACKNOWLEDGED, BEGUN):
            acknowledged = event.offset if event.kind == ACKNOWLEDGED else acknowledged
            begun = max(begun, event.offset)
            continue
        machine.feed(event)
        cuts[event.kind] += 1
        where = f"cut behind event {number} {event[:3]}"
        enumeration.behind(machine, event, range(acknowledged, begun + 1), where)
    cases = sum(enumeration.cases.values())
    print(
        f"crash points: {sum(cuts.values())} calls cut behind ({dict(cuts)}), {cases} cases ({dict(enumeration.cases)}), "
        f"{len(enumeration.verified)} that differ, {enumeration.recoveries} calls of recoveries cut behind"
    )
    assert set(cuts) == {"create", "write", "truncate", "sync", "syncdir", "rename", "unlink", "index"}
    assert sum(cuts.values()) >= CUTS_MIN
    assert cases >= CASES_MIN


def test_a_disk_that_lies_is_found_out(memory_path: Path) -> None:
    """The test of the test: where fdatasync, or the sync of a directory, does nothing, what was acknowledged is lost."""
    for lie in ("sync", "syncdir"):
        path = memory_path / lie
        disk = RecordingDisk(str(path))
        clock = StillClock()
        make_device(path, SMALL, disk, clock).close()
        base = read_tree(path)
        disk.events.clear()
        history = History(open_device(path, SMALL, disk, clock), disk, clock)
        history.run(ROUNDS)
        history.device.close()
        machine = Machine(base)
        for event in disk.events:
            if event.kind not in (ACKNOWLEDGED, BEGUN, lie):
                machine.feed(event)
        nothing = next(machine.choices(Random(0), torn=0, subsets_max=0))
        assert isinstance(nothing, Choice)
        target = Target(memory_path / f"{lie}-after")
        last = len(history.states) - 1
        with pytest.raises(Exception):  # noqa: B017, PT011 (whatever it is that breaks)
            Enumeration(target, history.states).verify(machine.after_cut(nothing), range(last, last + 1), lie)
