"""Swift's own files: read without trust, written so that Swift loads them."""

from __future__ import annotations

import array
import contextlib
import gzip
import json
import os
import pickle
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ring import swift_builder_file, swift_ring_file
from ring.builder import build_ring
from ring.ring import Ring
from ring.swift_ring_file import SwiftFileError
from ring.topology import Device
from tests.ring.histories import devices

PLACED = [*devices(6), Device(9, 2, 1, "2001:db8::1", 6201, "sdb", 7.5, meta={"note": "hé", "replication_ip": "::1"})]


def builder_dict(**changes: Any) -> dict[str, Any]:
    """What swift-ring-builder pickles."""
    rows = [
        {
            "id": i,
            "region": 1,
            "zone": i,
            "ip": f"10.0.0.{i}",
            "port": 6200,
            "replication_ip": f"10.0.0.{i}",
            "replication_port": 6200,
            "device": "sdb",
            "weight": 100.0,
            "meta": "",
            "parts": 4,
            "parts_wanted": 0,
        }
        for i in range(4)
    ]
    return {
        "part_power": 2,
        "next_part_power": None,
        "replicas": 3.0,
        "min_part_hours": 24,
        "parts": 4,
        "devs": [*rows[:3], None, {**rows[3], "id": 4}],
        "devs_changed": False,
        "version": 5,
        "overload": 0.1,
        "_replica2part2dev": [array.array("H", row) for row in ([0, 1, 2, 4], [1, 2, 4, 0], [2, 4, 0, 1])],
        "_last_part_moves_epoch": 3_600_000,
        "_last_part_moves": array.array("B", [0, 1, 255, 2]),
        "_remove_devs": [],
        "id": "abc",
        **changes,
    }


def test_a_builder_is_read():
    """Settings, devices, placement and the times of moves come out."""
    design, memory = swift_builder_file.loads(pickle.dumps(builder_dict(), protocol=2), seed=3)
    assert (design.settings.part_power, design.settings.replicas, design.settings.overload) == (2, 3.0, 0.1)
    assert design.settings.min_part_hours == 24
    assert [device.id for device in design.topology] == [0, 1, 2, 4]
    assert memory is not None
    assert [device.id for device in memory.ring.primaries(2)] == [2, 4, 0]
    assert memory.moved_min.tolist() == [60000, 60000 - 60, 0, 60000 - 120]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_pickle_protocol(protocol: int):
    """Builders of old and new Pythons are read."""
    _, memory = swift_builder_file.loads(pickle.dumps(builder_dict(), protocol=protocol), seed=3)
    assert memory is not None
    assert memory.ring.table[0].tolist() == [0, 1, 2, 4]


def test_a_builder_never_rebalanced_and_one_with_a_removal():
    """Without a table there is no memory; a device marked for removal is known to the memory alone."""
    _, memory = swift_builder_file.loads(pickle.dumps(builder_dict(_replica2part2dev=None), 2), seed=3)
    assert memory is None
    removed = [builder_dict()["devs"][0]]
    design, memory = swift_builder_file.loads(pickle.dumps(builder_dict(_remove_devs=removed), 2), seed=3)
    assert [device.id for device in design.topology] == [1, 2, 4]
    assert memory is not None
    assert memory.ring.devices[0] is not None


class Evil:
    """A pickle of this runs a program when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/tmp/never-made-by-a-test",)


def test_a_pickle_that_would_run_something_is_refused():
    """A foreign file runs nothing, wherever in it the call hides."""
    for data in (
        pickle.dumps(Evil()),
        pickle.dumps(builder_dict(devs=[Evil()]), 2),
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02cbuiltins\neval\n(X\x01\x00\x00\x001tR.",
        b"\x80\x02carray\n_array_reconstructor.__globals__\n.",
    ):
        with pytest.raises(SwiftFileError, match=r"wants to run|no pickle|no builder"):
            swift_builder_file.loads(data, 1)
    assert not Path("/tmp/never-made-by-a-test").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"part_power": 99},
        {"part_power": "2"},
        {"next_part_power": 3},
        {"replicas": float("nan")},
        {"devs": 7},
        {"devs": [{"id": 0}]},
        {"_replica2part2dev": [[0, 1, 2, 4]]},
        {"_replica2part2dev": [array.array("H", [0, 1])]},
        {"_replica2part2dev": [array.array("H", [0, 1, 2, 3])]},
        {"_replica2part2dev": [array.array("H", [0, 1, 2, 65535])]},
        {"_replica2part2dev": [array.array("H", [0, 0, 0, 0]), array.array("H", [0, 0, 0, 0])]},
        {"_replica2part2dev": [array.array("d", [0.0] * 4)]},
    ],
)
def test_a_builder_that_makes_no_sense_is_refused(changes: dict[str, Any]):
    """Whatever a field holds, the answer is one error, with what is wrong."""
    with pytest.raises(SwiftFileError):
        swift_builder_file.loads(pickle.dumps(builder_dict(**changes), 2), 1)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("replicas", [3.0, 2.25])
def test_a_ring_comes_back(version: int, replicas: float):
    """What is exported is imported equal: devices, table, part power, version."""
    ring = build_ring(PLACED, 6, replicas, 8, epoch=77)
    again = swift_ring_file.loads(swift_ring_file.dumps(ring, version), 8, 77)
    assert np.array_equal(again.table, ring.table)
    assert again.devices == ring.devices
    assert (again.part_power, again.replica_count) == (6, replicas)
    assert swift_ring_file.dumps(again, version) == swift_ring_file.dumps(ring, version)


@pytest.mark.parametrize("version", [1, 2])
def test_a_truncated_or_damaged_ring_is_refused(version: int):
    """A ring that was cut, or whose gzip is damaged, gives one error and no ring."""
    data = swift_ring_file.dumps(build_ring(PLACED, 4, 3, 8), version)
    for stop in range(0, len(data) - 8, 7):
        with pytest.raises(SwiftFileError):
            swift_ring_file.loads(data[:stop], 1)
    plain = gzip.decompress(data)
    for at in range(0, len(plain), 3):
        damaged = gzip.compress(plain[:at] + bytes([plain[at] ^ 0x55]) + plain[at + 1 :])
        with contextlib.suppress(SwiftFileError):
            assert isinstance(swift_ring_file.loads(damaged, 1), Ring)


def test_a_ring_of_the_other_byte_order():
    """Version 1 says in which byte order it was written."""
    head = {
        "byteorder": "big",
        "devs": [{"id": i, "zone": i, "ip": "::1", "port": i, "device": "d", "weight": 1} for i in (0, 1)],
    }
    text = json.dumps({**head, "part_shift": 31, "replica_count": 1}).encode()
    plain = b"R1NG" + struct.pack("!HI", 1, len(text)) + text + struct.pack(">2H", 0, 1)
    assert swift_ring_file.loads(gzip.compress(plain), 1).table.tolist() == [[0, 1]]


def test_a_newer_ring_format_is_refused():
    """Format 3 is none that this program knows."""
    with pytest.raises(SwiftFileError, match="ring format 3"):
        swift_ring_file.loads(gzip.compress(b"R1NG\x00\x03"), 1)


READ = """
import json, sys
from swift.common import utils
utils.HASH_PATH_SUFFIX = b"x"
from swift.common.ring import Ring
ring = Ring(sys.argv[1])
parts = [[d["id"] for d in ring.get_part_nodes(p)] for p in range(ring.partition_count)]
print(json.dumps({"parts": parts, "replicas": ring.replica_count, "devs": ring.devs, "version": ring.version}))
"""


@pytest.fixture(scope="module")
def swift_python() -> str:
    """The Python that has Swift's classes."""
    builder = os.environ.get("SWIFT_RING_BUILDER")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ringstead-swift-venv/bin"
    candidates = [Path(builder)] if builder else [cache / "swift-ring-builder"]
    for candidate in candidates:
        if candidate.exists():
            return candidate.read_text().splitlines()[0].removeprefix("#!").split()[0]
    pytest.skip("Swift is not installed: bench/ring.py makes its venv, or set SWIFT_RING_BUILDER to swift-ring-builder")


@pytest.mark.parametrize("version", [1, 2])
def test_swifts_own_class_loads_the_export(swift_python: str, tmp_path: Path, version: int):
    """Swift's Ring finds the same devices for every partition, and the same devices altogether."""
    ring = build_ring(PLACED, 6, 2.5, 8, epoch=12)
    path = tmp_path / "object.ring.gz"
    path.write_bytes(swift_ring_file.dumps(ring, version))
    done = subprocess.run([swift_python, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert seen["parts"] == [[d.id for d in ring.primaries(p)] for p in range(ring.part_count)]
    assert (seen["replicas"], seen["version"]) == (2.5, 12)
    assert swift_ring_file.devices_of(seen["devs"]) == ring.devices


BUILD = """
import sys
from swift.common.ring import RingBuilder
builder = RingBuilder(6, 3, 1)
for i in range(8):
    dev = {"region": 1, "zone": i % 4, "ip": f"10.0.0.{i}", "port": 6200, "device": "sdb", "weight": 100.0, "meta": "m"}
    builder.add_dev(dev | {"replication_ip": f"10.1.0.{i}", "replication_port": 6300})
builder.rebalance(seed="1")
builder.remove_dev(0)
builder.rebalance(seed="2")
builder.save(sys.argv[1] + "/o.builder")
for version in (1, 2):
    builder.get_ring().save(sys.argv[1] + f"/o{version}.ring.gz", format_version=version)
"""


def test_real_files_of_swift_are_imported(swift_python: str, tmp_path: Path):
    """A builder and rings that Swift wrote give the same placement."""
    subprocess.run([swift_python, "-c", BUILD, str(tmp_path)], check=True, capture_output=True)
    design, memory = swift_builder_file.loads((tmp_path / "o.builder").read_bytes(), 5)
    assert memory is not None
    assert len(design.topology) == 7
    assert design.topology.devices[0].meta == {"note": "m", "replication_ip": "10.1.0.1", "replication_port": "6300"}
    for version in (1, 2):
        ring = swift_ring_file.loads((tmp_path / f"o{version}.ring.gz").read_bytes(), 5)
        assert np.array_equal(ring.table, memory.ring.table)
