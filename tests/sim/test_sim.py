"""The simulator as part of the tests: fixed seeds, those that found something, and what a run depends on."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.sim.cluster import FINISH_S, whole
from tests.sim.run import Plan, run_seed
from tests.sim.world import CLOCKS, PERF_COUNTERS, Violation

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (1, 7, 12)
"""A few of all seeds: with and without direct reads, with a ring that changes. `make sim COUNT=1000` has the rest."""
FOUND = (2, 4, 8, 9)
"""Seeds that found something, at the length that they had then (README.md)."""
MAY_ASK = {
    "storage_node/disk.py": "the kernel's own disk, which is replaced",
    "storage_node/work.py": "a thread, which is replaced",
    "storage_node/index.py": "a lock of the process",
    "storage_node/log_writer.py": "a lock of the process",
}
"""Files that may import threads or time though world.py does not replace it there."""


@pytest.mark.parametrize("seed", [3, 6])
def test_without_faults_every_answer_is_exact(seed: int) -> None:
    """Clients of a cluster in which nothing breaks see exactly what they wrote, and so does every replica."""
    result = run_seed(seed, Plan(busy_s=30.0, faults=False))
    if result.failure is not None:
        raise result.failure
    assert not [kind for kind in result.counts if kind.startswith("unanswered")]


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_break_no_promise(seed: int) -> None:
    """Whatever breaks, no answer is wrong; and when it ends, all is as it was promised."""
    result = run_seed(seed)
    if result.failure is not None:
        raise result.failure
    assert any(kind.startswith("fault") for kind in result.counts)


@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_stays_mended(seed: int) -> None:
    """Seeds that have found a bug before."""
    result = run_seed(seed)
    if result.failure is not None:
        raise result.failure


def test_a_seed_is_a_run() -> None:
    """The same seed gives the same run, faults and all, to the last line of its trace."""
    plan = Plan(busy_s=40.0)
    first, second = run_seed(5, plan), run_seed(5, plan)
    assert first.trace_hash == second.trace_hash
    assert first.counts == second.counts


async def test_a_power_cut_is_not_left_half_done(autojump_clock: trio.testing.MockClock) -> None:
    """What is begun is finished though the faults are ended meanwhile, and what never ends is a failure of the run."""
    finished = False
    with trio.move_on_after(1.0):
        with whole("wait a little"):
            await trio.sleep(FINISH_S / 2)
            finished = True
    assert finished
    with pytest.raises(Violation, match="can't wait for ever"), whole("wait for ever"):
        await trio.sleep_forever()


def test_nothing_else_asks_for_the_time_or_a_thread() -> None:
    """Storage node and replicator take time and threads from where a run can replace them, and from nowhere else."""
    known = {Path(str(module.__file__)).resolve() for module in (*PERF_COUNTERS, *CLOCKS)}
    strangers = [
        str(path.relative_to(ROOT))
        for room in ("storage_node", "replicator", "ring")
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.resolve() not in known
        and str(path.relative_to(ROOT)) not in MAY_ASK
        and _imports(path) & {"time", "threading", "uuid", "secrets"}
    ]
    assert not strangers


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found
