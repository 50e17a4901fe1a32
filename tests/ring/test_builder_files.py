"""The builder's files: locks, versions, undo, and crashes in the middle."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ring import builder_files
from ring.builder_files import BuilderFileError, BuilderFiles, LockedError, NothingToUndoError, State
from ring.rebalance import make_plan, rebalance
from ring.ring import Ring
from ring.topology import Topology
from ring.topology_file import Design, with_settings
from tests.ring.histories import design_of, devices


class Cut(Exception):
    """The moment at which a test cuts the power."""


def files_at(folder: Path) -> BuilderFiles:
    """The files of a ring in a folder, with a clock that stands still."""
    return BuilderFiles(folder / "ring.toml", now_s=lambda: 1_000_000.0, who="tester@host")


def push(files: BuilderFiles, state: State, design: Design) -> None:
    """Rebalance and write everything."""
    plan = make_plan(design, state.memory, 0)
    done = rebalance(plan, state.memory, 0, state.epoch_floor + 1)
    files.change(state, design, done.memory, "rebalance", write_ring=True)


def grown(design: Design, count: int) -> Design:
    """The design with so many devices."""
    return replace(design, topology=Topology.of(devices(count)))


@pytest.fixture
def files(tmp_path: Path) -> BuilderFiles:
    """A ring of six devices that was rebalanced once: versions 1 and 2."""
    made = files_at(tmp_path)
    made.create(design_of(devices(6), 6), "create")
    with made.lock("rebalance"):
        push(made, made.read(), made.read().design)
    return made


def test_what_was_written_is_read(files: BuilderFiles):
    """Design, memory and ring file agree, and the ring file is what nodes load."""
    state = files.read()
    assert state.memory is not None
    assert state.ring_current
    assert Ring.load(files.ring_path).dumps() == state.memory.ring.dumps()
    assert [version.command for version in files.versions()] == ["create", "rebalance"]


def test_a_ring_is_not_begun_twice(files: BuilderFiles):
    """Neither over a ring nor over what is left of one."""
    with pytest.raises(BuilderFileError, match="there is a ring already"):
        files.create(design_of(devices(6), 6), "create")
    files.path.unlink()
    with pytest.raises(BuilderFileError, match="left of an earlier ring"):
        files.create(design_of(devices(6), 6), "create")


def test_the_second_operator_is_told(files: BuilderFiles):
    """While one changes the ring another is refused, with who it is; nothing is lost."""
    other = files_at(files.path.parent)
    with (
        files.lock("set_weight d0 5"),
        pytest.raises(LockedError, match=r"tester@host \(process \d+, `set_weight d0 5`\) is"),
        other.lock("x"),
    ):
        pytest.fail("two operators hold the lock")
    with other.lock("x"):
        pass


def _change_hours(folder: str, hours: int, done: multiprocessing.Queue[str]) -> None:
    files = files_at(Path(folder))
    try:
        with files.lock(f"hours {hours}"):
            state = files.read()
            design = with_settings(state.design, min_part_hours=state.design.settings.min_part_hours + 1)
            files.change(state, design, state.memory, f"hours {hours}", write_ring=False)
        done.put("done")
    except LockedError:
        done.put("told")


def test_many_operators_at_once_lose_nothing(files: BuilderFiles):
    """Of processes that change the ring at the same time each either did it or was told."""
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[str] = context.Queue()
    workers = [context.Process(target=_change_hours, args=(str(files.path.parent), i, queue)) for i in range(4)]
    for worker in workers:
        worker.start()
    answers = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert files.read().design.settings.min_part_hours == answers.count("done")
    assert len(files.versions()) == 2 + answers.count("done")


def test_a_change_by_an_editor_in_between_is_not_overwritten(files: BuilderFiles):
    """If the topology file changed after it was read, nothing is written."""
    with files.lock("x"):
        state = files.read()
        files.path.write_text(files.path.read_text().replace("min_part_hours = 0", "min_part_hours = 9"))
        with pytest.raises(BuilderFileError, match="changed meanwhile by another program"):
            files.change(state, with_settings(state.design, overload=0.5), state.memory, "x", write_ring=False)
    assert files.read().design.settings.min_part_hours == 9


def test_nothing_changed_writes_nothing(files: BuilderFiles):
    """A command without effect makes no version."""
    with files.lock("x"):
        state = files.read()
        assert not files.change(state, state.design, state.memory, "x", write_ring=True)
    assert len(files.versions()) == 2


def test_a_crash_at_any_moment_leaves_the_old_or_the_new(files: BuilderFiles, monkeypatch: pytest.MonkeyPatch):
    """Cut after any of the steps of a change: what is read is all old or all new, and the next change goes on from it."""
    steps = 0

    def cut_after(step: int) -> bool:
        nonlocal steps
        steps = 0

        def counted(function):  # type: ignore[no-untyped-def]
            def wrapped(*args: object) -> None:
                nonlocal steps
                if steps == step:
                    raise Cut
                steps += 1
                function(*args)

            return wrapped

        with monkeypatch.context() as patch:
            patch.setattr(builder_files, "replace_file", counted(builder_files.replace_file))
            patch.setattr(builder_files, "sync_directory", counted(builder_files.sync_directory))
            patch.setattr(Path, "rename", counted(Path.rename))
            try:
                with files.lock("grow"):
                    state = files.read()
                    push(files, state, grown(state.design, len(state.design.topology) + 1))
            except Cut:
                return True
        return False

    step = 0
    while True:
        before = files.read()
        was_cut = cut_after(step)
        after = files.read()
        assert after.memory is not None
        assert before.memory is not None
        grew = len(after.design.topology) - len(before.design.topology)
        assert grew == after.memory.ring.epoch - before.memory.ring.epoch
        assert grew in (0, 1)
        assert after.ring_current
        if not was_cut:
            break
        step += 1
    assert step > 5
    with files.lock("x"):
        state = files.read()
    assert not [entry for entry in files.versions_path.iterdir() if entry.name.endswith(".pending")]
    assert files.path.read_bytes() == state.contents.topology


def test_undo_goes_back_in_content_and_on_in_epochs(files: BuilderFiles):
    """Undo restores topology and placement under a higher epoch; again goes further; redo is undo to a version."""
    start = files.read()
    assert start.memory is not None
    with files.lock("grow"):
        push(files, files.read(), grown(start.design, 9))
    with files.lock("hours"):
        state = files.read()
        files.change(state, with_settings(state.design, min_part_hours=7), state.memory, "hours", write_ring=False)
    with files.lock("undo"):
        assert files.undo("undo").number == 3
    state = files.read()
    assert (state.design.settings.min_part_hours, len(state.design.topology)) == (0, 9)
    with files.lock("undo"):
        assert files.undo("undo", now_min=500).number == 2
    state = files.read()
    assert state.memory is not None
    assert len(state.design.topology) == 6
    assert np.array_equal(state.memory.ring.table, start.memory.ring.table)
    assert state.memory.ring.epoch > 2
    assert state.ring_current
    # What went back moved, so it rests.
    assert set(np.unique(state.memory.moved_min)) == {0, 500}
    with files.lock("undo"):
        files.undo("undo", to=4)
    state = files.read()
    assert (state.design.settings.min_part_hours, len(state.design.topology)) == (7, 9)


def test_undo_to_the_beginning_leaves_the_nodes_their_ring(files: BuilderFiles):
    """Undoing the first rebalance forgets the placement but not the epoch: nodes have the ring file already."""
    with files.lock("undo"):
        files.undo("undo")
    state = files.read()
    assert state.memory is None
    assert files.ring_path.exists()
    with files.lock("undo"), pytest.raises(NothingToUndoError):
        files.undo("undo")
    with files.lock("rebalance"):
        state = files.read()
        push(files, state, state.design)
    assert Ring.load(files.ring_path).epoch == 2


def test_what_an_editor_wrote_is_a_version(files: BuilderFiles):
    """A change by hand can be undone like any other."""
    files.path.write_text(files.path.read_text().replace("min_part_hours = 0", "min_part_hours = 9"))
    with files.lock("overload"):
        state = files.read()
        files.change(state, with_settings(state.design, overload=0.5), state.memory, "overload", write_ring=False)
    assert [version.command for version in files.versions()] == ["create", "rebalance", "edited by hand", "overload"]
    with files.lock("undo"):
        files.undo("undo")
    assert files.read().design.settings.min_part_hours == 9
    with files.lock("undo"):
        files.undo("undo")
    assert files.read().design.settings.min_part_hours == 0


def test_old_versions_go(files: BuilderFiles, monkeypatch: pytest.MonkeyPatch):
    """No more than a limit of versions is kept."""
    monkeypatch.setattr(builder_files, "VERSIONS_MAX", 4)
    for hours in range(1, 8):
        with files.lock("hours"):
            state = files.read()
            files.change(state, with_settings(state.design, min_part_hours=hours), state.memory, "h", write_ring=False)
    assert [version.number for version in files.versions()] == [6, 7, 8, 9]


def test_unchanged_files_are_shared_between_versions(files: BuilderFiles):
    """A change of the topology alone costs the topology file."""
    with files.lock("hours"):
        state = files.read()
        files.change(state, with_settings(state.design, min_part_hours=3), state.memory, "hours", write_ring=False)
    one, other = (files.versions_path / f"{number:06}" / "memory" for number in (2, 3))
    assert one.stat().st_ino == other.stat().st_ino


def test_damaged_files_are_named(files: BuilderFiles):
    """A damaged memory, a topology that is no text, or a foreign file is refused by name, with what to do."""
    memory = files.memory_path.read_bytes()
    files.memory_path.write_bytes(memory[:-1])
    with pytest.raises(BuilderFileError, match=r"ring.memory: truncated.*undo --to"):
        files.read()
    files.memory_path.write_bytes(memory)
    files.path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(BuilderFileError, match="a builder of Swift: `import` it"):
        files.read()
    files.path.unlink()
    with pytest.raises(BuilderFileError, match="there is no such file; begin one with `create`"):
        files.read()
