"""`ringstead rebalance` without a running cluster: plans, starts, orders, what is refused, what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring.generations import Generations, finish
from ring.moves import read_state
from ringstead.cli import cli
from ringstead.commands.cluster.rebalance import progress_text
from ringstead.commands.cluster.ring_home import open_home
from ringstead.one_machine.layout import DataDirectory, open_directory
from ringstead.rings.change import Progress, progress
from tests.support.command_line import call


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of a cluster that does not run."""
    open_directory(DataDirectory(tmp_path / "data"), {"port": 7355, "zones": 3, "devices_per_zone": 1})
    return tmp_path / "data"


def run(*words: str, code: int = 0) -> str:
    """What a command prints; why it fails if it is to fail."""
    done = call(cli, words)
    assert done.code == code, done
    return done.out if code == 0 else done.error


def answer(*words: str) -> dict[str, Any]:
    """The same as JSON."""
    found: dict[str, Any] = json.loads(run(*words, "--json"))
    return found


def test_a_cluster_that_is_down_does_not_answer(data: Path) -> None:
    """What the files say is shown; then that nothing answers, and exit code 1, as `ringstead status` has it."""
    for words in (("rebalance",), ("rebalance", "status"), ("rebalance", "watch"), ("device", "list"), ("status",)):
        assert "no device answers; is the cluster running?" in run(*words, "--data", str(data), code=1)


def test_a_ring_change_from_its_plan_to_its_start(data: Path) -> None:
    """Drained by the builder, shown, begun: the old ring stays in force beside the new one, orders are written down."""
    option = ("--data", str(data))
    assert "nothing moves" in run("rebalance", "plan", *option, code=1)
    topology = str(data / "ring.toml")
    assert Path(topology).exists()
    run("ring", "--file", topology, "add", "r1z4-127.0.0.1:29111/z4d1", "100")
    run("ring", "--file", topology, "drain", "z1")
    planned = answer("rebalance", "plan", *option)
    assert planned["partitions"] > 0
    assert {pair["from"] for pair in planned["zones"]} == {"r1z1"}
    before = Generations(data / "cluster.ring").newest
    started = answer("rebalance", "start", *option, "--rate", "5MB/s", "--device-rate", "2MB")
    assert (started["epoch"], started["replicas"]) == (2, planned["replicas"])
    rings = Generations(data / "cluster.ring").rings
    assert [ring.epoch for ring in rings] == [2, 1]
    assert rings[1].dumps() == before.dumps()
    orders = read_state(data / "cluster.ring").orders
    assert (orders.bytes_per_s, orders.device_bytes_per_s, orders.planned_epoch) == (5e6, 2e6, 2)
    assert (data / "config" / "storage-z4d1.toml").exists()
    assert "no device answers" in run("rebalance", *option, code=1)
    assert "still moves" in run("rebalance", "start", *option, code=1)
    assert "still moves" in run("rebalance", "grow", "--zones", "6", *option, code=1)


def test_a_ring_that_the_builder_has_made_already_is_what_starts(data: Path) -> None:
    """`ring rebalance` first, or a start that died before the ring was in force: the next start carries on."""
    option = ("--data", str(data))
    run("rebalance", *option, code=1)
    topology = str(data / "ring.toml")
    run("ring", "--file", topology, "add", "r1z4-127.0.0.1:29111/z4d1", "100")
    run("ring", "--file", topology, "rebalance")
    made = (data / "ring.ring").read_bytes()
    assert answer("rebalance", "start", *option)["epoch"] == 2
    assert (data / "cluster.ring").read_bytes() == made
    finish(data / "cluster.ring", 2)
    assert "nothing moves" in run("rebalance", "start", *option, code=1)


def test_a_change_that_copies_nothing_says_so(data: Path) -> None:
    """Empty devices that are removed: only the ring changes, and that is said before and while it does."""
    option = ("--data", str(data))
    topology = str(data / "ring.toml")
    run("rebalance", "plan", *option, code=1)
    run("ring", "--file", topology, "add", "r1z4-127.0.0.1:29111/z4d1", "100")
    run("rebalance", "start", *option)
    finish(data / "cluster.ring", 2)
    run("ring", "--file", topology, "drain", "z4d1")
    assert not answer("rebalance", "start", *option)["replicas_waiting"]
    finish(data / "cluster.ring", 3)
    run("ring", "--file", topology, "remove", "z4d1", "--yes")
    assert answer("rebalance", "plan", *option)["replicas"] == 0
    assert run("rebalance", "start", *option).startswith("No data moves")
    generations = Generations(data / "cluster.ring")
    found = progress(open_home(data, None, None).settings, generations)
    assert found.nothing_to_copy
    assert "4: no data to copy" in progress_text(replace(found, answering=True))
    assert "4: paused before it began" in progress_text(
        replace(found, answering=True, paused=True, nothing_to_copy=False)
    )


def test_orders_are_kept(data: Path) -> None:
    """Pause, resume and limits change what they name and nothing else."""
    option = ("--data", str(data))
    path = data / "cluster.ring"
    assert answer("rebalance", "pause", *option)["paused"]
    assert answer("rebalance", "throttle", "50MB/s", *option) == {
        "paused": True,
        "bytes_per_s": 5e7,
        "device_bytes_per_s": None,
    }
    run("rebalance", "throttle", "--device", "1MiB", *option)
    run("rebalance", "resume", *option)
    orders = read_state(path).orders
    assert (orders.paused, orders.bytes_per_s, orders.device_bytes_per_s) == (False, 5e7, 1024.0**2)
    run("rebalance", "throttle", "none", "--device", "none", *option)
    assert read_state(path).orders.bytes_per_s == 0


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("throttle",), 2, "say how much"),
        (("throttle", "fast"), 2, "no rate"),
        (("throttle", "-5"), 2, "'-5' is no rate"),
        (("grow", "--zones", "0"), 2, "outside"),
        (("grow", "--zones", "3"), 3, ""),
        (("grow", "--zones", "2"), 2, "drain"),
        (("grow",), 2, "say how many"),
    ],
)
def test_what_makes_no_sense_is_one_line(data: Path, words: tuple[str, ...], code: int, complaint: str) -> None:
    """And changes nothing."""
    assert complaint in run("rebalance", *words, "--data", str(data), code=code)
    assert [ring.epoch for ring in Generations(data / "cluster.ring").rings] == [1]


def test_another_clusters_topology_is_refused(data: Path, tmp_path: Path) -> None:
    """Its seed would put every name somewhere else."""
    other = tmp_path / "other.toml"
    run("ring", "--file", str(other), "create", "12", "3", "0")
    run("ring", "--file", str(other), "add", *(w for z in (1, 2, 3) for w in (f"r1z{z}-10.0.0.{z}:6200/sdb", "1")))
    complaint = run("rebalance", "plan", "--data", str(data), "--file", str(other), code=1)
    assert "another cluster" in complaint


def test_growing_a_cluster_that_is_down(data: Path) -> None:
    """The topology, the ring and the settings of the new devices are there for the next `up`."""
    found = answer("rebalance", "grow", "--zones", "4", "--devices-per-zone", "2", "--data", str(data))
    assert sorted(found["added"]) == ["z1d2", "z2d2", "z3d2", "z4d1", "z4d2"]
    assert {f"storage-{name}.toml" for name in found["added"]} <= {path.name for path in (data / "config").iterdir()}
    assert [ring.epoch for ring in Generations(data / "cluster.ring").rings] == [2, 1]


def progress_of(epochs: list[int], moved: int, moving: int, before: int, *rest: Any) -> Progress:
    """Moved is never more than there is."""
    return Progress(epochs, min(moved, moving), moving, min(before, moved, moving), *rest)


progresses = st.builds(
    progress_of,
    st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True).map(lambda found: sorted(found, reverse=True)),
    st.integers(0, 100),
    st.sampled_from([0, 100]),
    st.integers(0, 100),
    st.floats(0, 1e12),
    st.floats(0, 1e6),
    st.booleans(),
    st.floats(0, 1e9),
    st.floats(0, 1e9),
    st.booleans(),
)


@given(progresses)
def test_progress_can_always_be_said(found: Progress) -> None:
    """A share between none and all, what is left shrinks with it, and a line of text whatever the state."""
    assert progress_text(found)
    assert json.loads(json.dumps(found.as_json()))["epochs"] == found.epochs
    assert 0 <= found.share <= 1
    assert 0 <= found.left_bytes <= found.planned_bytes
    left_s = found.left_s()
    if left_s is not None:
        assert left_s >= 0
        done = found.moved - found.moved_before
        assert left_s * done == pytest.approx(found.elapsed_s * (found.moving - found.moved))
