"""`ringstead ring` as an operator uses it: words, exit codes, one-line errors, files untouched by them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ring.builder import build_ring
from ring.ring import Ring
from ring.swift_ring_file import dumps as dump_swift
from ringstead.commands.ring.group import ring
from tests.ring.histories import devices
from tests.support.command_line import Answer
from tests.support.command_line import call as run_command

Run = Callable[..., Answer]


def call(line: str, **options: str) -> Answer:
    """Run a command line of the builder."""
    return run_command(ring, shlex.split(line), **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a ring of two zones with two devices each and one with one, rebalanced."""
    path = tmp_path_factory.mktemp("ring")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.delenv("RINGSTEAD_RING", raising=False)
        make(call)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run command lines in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RINGSTEAD_RING", raising=False)
    return call


@pytest.fixture
def made(run: Run, folder: Path, tmp_path: Path) -> Run:
    """Run command lines in a folder with the ring of `folder`."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return run


def make(run: Run) -> None:
    """Make that ring."""
    assert run("create 8 3 24 --seed 7").code == 0
    line = (
        "add r1z1-10.0.0.1:6200/sdb 100 r1z1-10.0.0.1:6200/sdc 100 r1z2-10.0.0.2:6200/sdb 100 z2-10.0.0.2:6200/sdc 100"
    )
    assert run(line).code == 0
    assert run("add -r 1 -z 3 -i 10.0.0.3 -p 6200 -d sdb -w 200 -m 'shelf 3' --set rack=A1").code == 0
    assert run("rebalance").code == 0


def data(answer: Answer) -> dict:
    """The JSON of an answer."""
    return json.loads(answer.out)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file but the lock."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith(".lock")}


def test_from_create_to_ring_file(made: Run, tmp_path: Path):
    """create, add, rebalance write a topology file that people read, and a ring that nodes load."""
    text = (tmp_path / "ring.toml").read_text()
    assert '{ id = 4, name = "sdb", port = 6200, weight = 200.0, meta = { "note" = "shelf 3", "rack" = "A1" } }' in text
    loaded = Ring.load(tmp_path / "ring.ring")
    assert (loaded.part_count, loaded.replica_count, loaded.epoch, loaded.seed) == (256, 3.0, 1, 7)
    shown = data(made("--json"))
    assert [device["parts"] for device in shown["devices"]] == [128, 128, 128, 128, 256]
    assert shown["ring_file"] == "up-to-date"
    assert "256 partitions, 3.000000 replicas, 1 regions, 3 zones, 5 devices, 0.00 balance" in made("").out


def test_a_rebalance_without_need_says_so(made: Run):
    """Exit code 1, as Swift's; --force writes a new epoch all the same."""
    answer = made("rebalance")
    assert answer.code == 1
    assert "No partitions could be reassigned" in answer.out
    assert data(made("rebalance --force --json"))["epoch"] == 2


def test_the_plan_is_what_rebalance_does(made: Run):
    """plan shows the moves that rebalance then makes, and changes nothing."""
    made("set_weight d0 0")
    before = snapshot(Path.cwd())
    plan = data(made("plan --json --data 256GB --rate 1MB/s"))
    assert snapshot(Path.cwd()) == before
    assert plan["replica_bytes"] == 1e9
    assert plan["bytes"] == plan["moves"] * 1e9
    assert plan["steps"][0]["duration_s"] > 0
    text = made("plan")
    assert text.code == 0
    assert "never more than one replica of a partition in motion" in text.out
    done = data(made("rebalance --json"))
    assert done["moved"] == plan["moves_due"] == plan["moves"]
    assert made("plan").code == 1


def test_min_part_hours(made: Run):
    """What moved rests; pretend_min_part_hours_passed lets it move again."""
    made("set_weight d0 0")
    made("rebalance")
    made("set_weight d0 100")
    assert made("rebalance").code == 1
    assert "min_part_hours (24) ago" in made("rebalance").out
    assert "partitions rest now" in made("").out
    assert made("pretend_min_part_hours_passed").code == 0
    assert data(made("rebalance --json"))["moved"] > 0


def test_a_removed_device_is_replaced_at_once(made: Run):
    """remove marks it, rebalance makes its replicas again, min_part_hours or not."""
    made("set_weight d1 50")
    made("rebalance")
    assert "marked for removal" in made("remove d0").out
    flags = {device["id"]: device["flag"] for device in data(made("--json"))["devices"]}
    assert flags[0] == "DEL"
    assert made("rebalance").code in (0, 1)
    assert {device["id"] for device in data(made("--json"))["devices"]} == {1, 2, 3, 4}


def test_search_and_list_parts(made: Run):
    """Devices are found by any part of their text, partitions by devices."""
    assert [d["id"] for d in data(made("search z2 --json"))["devices"]] == [2, 3]
    assert [d["id"] for d in data(made("search --ip 10.0.0.1 --device sdc --json"))["devices"]] == [1]
    assert [d["id"] for d in data(made("search -m shelf --json"))["devices"]] == [4]
    assert made("search z9").code == 2
    lines = made("list_parts z1 z3").out.splitlines()
    assert lines[0] == "Partition   Matches"
    assert lines[1].split() == ["0", "2"]
    assert len(lines) == 257
    assert len(data(made("list_parts d0 --json"))["partitions"]) == 128


def test_set_info_region_zone(made: Run):
    """Addresses change without a move; write_ring tells the nodes; a zone changes what should be where."""
    assert "is now d4r1z3-10.0.0.33:6201/sdx" in made("set_info d4 10.0.0.33:6201/sdx_moved").out
    assert "older than the topology" in made("").out
    assert data(made("write_ring --json")) == {"file": str(Path.cwd() / "ring.ring"), "epoch": 2, "written": True}
    assert data(made("write_ring --json"))["written"] is False
    assert made("set_info d4 --change-port 6300 --set rack=B2 --set row=7").code == 0
    found = data(made("search d4 --json"))["devices"][0]
    assert (found["port"], found["meta"]) == (6300, {"note": "moved", "rack": "B2", "row": "7"})
    assert made("set_zone d4 1 --json").code == 0
    assert made("set_region d4 2").code == 0
    assert made("set_weight --zone 2 70 --yes").code == 0
    assert data(made("search r2 --json"))["devices"][0]["zone"] == 1


def test_replicas_hours_overload(made: Run, tmp_path: Path):
    """Settings change in the file and take effect with the next rebalance."""
    assert made("set_replicas 2.5").code == 0
    assert made("set_min_part_hours 1").code == 0
    assert made("set_overload 10%").code == 0
    assert made("set_overload 10").code == 1
    assert made("set_overload 0.1").code == 0
    text = (tmp_path / "ring.toml").read_text()
    assert "replicas = 2.5" in text
    assert "overload = 0.1" in text
    made("rebalance")
    assert Ring.load(tmp_path / "ring.ring").replica_count == 2.5


def test_dispersion(made: Run):
    """0 when replicas are apart; 1 with the worst tier when they are not."""
    assert made("dispersion").code == 0
    made("set_weight d4 20 d0 500")
    made("pretend_min_part_hours_passed")
    assert made("rebalance").code == 1
    answer = made("dispersion -v 'z1$'")
    assert answer.code == 1
    assert "Worst tier is" in answer.out
    assert len(answer.out.splitlines()) == 5
    tiers = {tier["tier"]: tier for tier in data(made("dispersion --json"))["tiers"]}
    assert sum(tiers["r1z1"]["counts"]) == 256
    assert made("dispersion '('").code == 2


def test_validate_and_version(made: Run, tmp_path: Path):
    """validate verifies all from nothing; version reads the ring file; a damaged one is refused."""
    assert "holds exactly its quota" in made("validate").out
    assert "format version 1" in made("version").out
    assert data(made("version --json"))["epoch"] == 1
    path = tmp_path / "ring.ring"
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    for command in ("version", "validate"):
        answer = made(command)
        assert answer.code == 2
        assert "truncated" in answer.error


def test_lose(made: Run):
    """Exit code 1 when partitions fall under a majority; survivors and what they would carry are listed."""
    one = made("lose z3 --json")
    assert one.code == 0
    assert data(one)["partitions_with_fewer"] == 256
    assert {entry["id"] for entry in data(one)["survivors"]} == {0, 1, 2, 3}
    two = made("lose z1 z3")
    assert two.code == 1
    assert "under a majority: 0 1 2" in two.out
    assert "can't make up for it: 3 replicas need 3 devices" in two.out
    assert len(data(made("lose 10.0.0.1 d4 --json"))["partitions_below_majority"]) == 256


def test_draw(made: Run, tmp_path: Path):
    """An SVG file, with the replicas of a partition or of a name marked."""
    assert made("draw -o ring.svg").code == 0
    assert (tmp_path / "ring.svg").read_text().count("<circle") == 3
    assert made("draw -o ring.svg --partition -1").code == 0
    assert "<circle" not in (tmp_path / "ring.svg").read_text()
    shown = data(made("draw -o ring.svg --key /a/c/o --json"))
    loaded = Ring.load(tmp_path / "ring.ring")
    assert shown["partition"] == loaded.partition(loaded.hash_key(b"/a/c/o"))


def test_undo_and_history(made: Run):
    """Changes are listed and taken back, one after the other, or to a version."""
    made("set_weight d0 0")
    made("rebalance")
    assert [entry["command"].split()[0] for entry in data(made("history --json"))["versions"]] == [
        "create",
        "add",
        "add",
        "rebalance",
        "set_weight",
        "rebalance",
    ]
    assert data(made("undo --json"))["version"] == 5
    assert data(made("undo --json"))["version"] == 4
    assert data(made("search d0 --json"))["devices"][0]["parts"] == 128
    assert data(made("undo --to 6 --json"))["version"] == 6
    assert data(made("search d0 --json"))["devices"][0]["parts"] == 0
    assert "brought back 6" in made("history").out
    assert made("undo --to 99").code == 2


def test_part_power(made: Run, tmp_path: Path):
    """Prepare, increase, finish: each writes a ring; in between nothing else changes the ring."""
    assert made("increase_partition_power").code == 2
    assert made("prepare_increase_partition_power").code == 0
    assert Ring.load(tmp_path / "ring.ring").part_powers == (8, 9)
    for command in ("rebalance", "add z1-1.1.1.1:1/a 1", "remove d0"):
        assert "under way" in made(command).error
    assert made("cancel_increase_partition_power").code == 0
    for command in ("prepare_increase", "increase", "finish_increase"):
        assert made(f"{command}_partition_power").code == 0
    loaded = Ring.load(tmp_path / "ring.ring")
    assert (loaded.part_powers, loaded.epoch) == ((9,), 6)
    assert "part_power = 9" in (tmp_path / "ring.toml").read_text()
    assert made("rebalance").code == 1


def test_import_and_export(made: Run, tmp_path: Path):
    """A ring goes out as Swift's and comes back, and a lost builder is made again from a ring file."""
    for version in (1, 2):
        assert made(f"export out{version}.ring.gz --format-version {version}").code == 0
        assert made(f"--file again{version}.toml import out{version}.ring.gz").code == 0
        shown = data(made(f"again{version}.toml show --json"))
        assert [device["parts"] for device in shown["devices"]] == [128, 128, 128, 128, 256]
    (tmp_path / "ring.toml").unlink()
    (tmp_path / "ring.memory").unlink()
    assert made("write_builder 12").code == 0
    shown = data(made("--json"))
    assert (shown["epoch"], shown["min_part_hours"], shown["ring_file"]) == (1, 12, "up-to-date")
    assert made("rebalance").code == 1
    (tmp_path / "foreign.ring.gz").write_bytes(dump_swift(build_ring(devices(4), 4, 3, 1)))
    assert made("-f foreign.toml import foreign.ring.gz").code == 0
    assert made("-f foreign.toml import foreign.ring.gz").code == 2


def test_the_file_in_swifts_place(run: Run, tmp_path: Path):
    """`ringstead-ring FILE COMMAND`, and FILE alone, as Swift has it; and an environment variable."""
    assert run("object.builder create 4 1 0").code == 0
    assert run("object.builder add z1-1.1.1.1:1/a 1").code == 0
    assert run("object.builder rebalance").code == 0
    assert (tmp_path / "object.ring").exists()
    assert "16 partitions" in run("object.builder").out
    assert "16 partitions" in run("object.ring").out
    assert run("set-weight d0 5", env={"RINGSTEAD_RING": "object.builder"}).code == 0


BAD = [
    "add z1 1",
    "add r1z1-10.0.0.9/sdb 100",
    "add r1z1-10.0.0.9:99999/sdb 100",
    "add r1z1-1.1.1:6200/sdb 100",
    "add r1z1-10.0.0.9:6200/sdb",
    "add r1z1-10.0.0.9:6200/sdb -5",
    "add r1z1-10.0.0.9:6200/sdb nan",
    "add r1z1-10.0.0.9:6200/sdb inf",
    "add r1z1-10.0.0.9:6200/sdb -inf",
    "add r1z1-10.0.0.9:6200/sdb abc",
    "add r1z1-10.0.0.9:6200/sdq 1 bad 1",
    "add r1z1-10.0.0.1:6200/sdb 100",
    "add r1z1-10.0.0.9:6200/a 1 r1z1-10.0.0.9:6200/a 1",
    "add --zone 1 --ip 10.0.0.9 --port 6200 --device sdb",
    "add --zone 1 --ip 10.0.0.9 --port 6200 --device sdb --weight -1",
    "add --id 0 --zone 1 --ip 10.0.0.9 --port 6200 --device sdb --weight 1",
    "add",
    "set_weight d0 -1",
    "set_weight d0 nan",
    "set_weight d9 1",
    "set_weight d0",
    "set_weight z1 5",
    "set_zone d0 x",
    "set_zone d0 99999",
    "set_info d0 10.0.0.1:6200/sdc",
    "set_info d0 ''",
    "set_info d0",
    "set_replicas 6",
    "set_replicas 0",
    "set_replicas nan",
    "set_replicas many",
    "set_min_part_hours -1",
    "set_overload -1",
    "set_overload much",
    "remove d0 d1 d2 d3 d4 --yes",
    "remove d9",
    "remove z1",
    "remove",
    "create 8 3 1",
    "-f other.toml create 33 3 1",
    "-f other.toml create -1 3 1",
    "-f other.toml create 8 0 1",
    "-f other.toml create 8 3 -1",
    "-f other.toml create 8 3",
    "-f nowhere/other.toml create 8 3 1",
    "-f other.toml rebalance",
    "other.toml",
    "rebalance --seed 99999999999999999999999",
    "rebalance --bogus",
    "plan --data x",
    "plan --rate -1",
    "lose",
    "lose z9",
    "draw",
    "draw -o nowhere/x.svg",
    "draw -o x.svg --partition 999",
    "export nowhere/x.ring.gz",
    "export x.ring.gz --format-version 3",
    "-f other.toml import nothing.builder",
    "-f other.toml import ring.toml",
    "list_parts z9",
    "undo --to 77",
    "nonsense",
    "increase_partition_power",
]


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_and_changes_nothing(made: Run, tmp_path: Path, line: str):
    """Exit code 2, one line that says what and what to do, every file as it was."""
    before = snapshot(tmp_path)
    answer = made(line)
    assert answer.code == 2
    assert answer.error
    assert "\n" not in answer.error.strip()
    assert snapshot(tmp_path) == before


def test_files_of_a_newer_version_are_refused(made: Run, tmp_path: Path):
    """A topology file or memory of a later program is not touched, and the error says so."""
    topology, memory = tmp_path / "ring.toml", tmp_path / "ring.memory"
    text = topology.read_text()
    topology.write_text(text.replace("version = 1", "version = 2"))
    answer = made("rebalance")
    assert answer.code == 2
    assert "version 2, and this program knows up to 1: use a newer one" in answer.error
    topology.write_text(text)
    content = bytearray(memory.read_bytes())
    content[8] = 2
    memory.write_bytes(content)
    answer = made("rebalance")
    assert answer.code == 2
    assert "format version 2, and this program knows up to 1" in answer.error


def test_both_commands_are_installed(tmp_path: Path):
    """`ringstead ring` and `ringstead-ring` are the same tool; an error is one line on standard error."""
    env = {**os.environ, "RINGSTEAD_RING": str(tmp_path / "ring.toml")}
    installed = str(Path(sys.executable).with_name("ringstead-ring"))
    done = subprocess.run([installed, "create", "4", "3", "1"], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        [sys.executable, "-m", "ringstead", "ring", "add", "x", "1"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "ringstead: 'x' is no device: write r1z2-10.0.0.1:6200/sdb\n"


def test_devices_are_drained_and_removed_by_name(run: Run) -> None:
    """A name is a search where emptying and removing is concerned; what is neither name nor search is refused."""
    assert run("create 4 3 0").code == 0
    assert run("add " + " ".join(f"r1z{zone}-10.0.0.{zone}:6200/z{zone}d1 100" for zone in (1, 2, 3, 4))).code == 0
    assert run("rebalance").code == 0
    assert "will be emptied" in run("drain z1d1").out
    assert run("rebalance").code == 0
    assert run("remove z1d1").code == 0
    assert "matched 0 devices" in run("drain z9d9").error
    assert [device["name"] for device in json.loads(run("search z2 --json").out)["devices"]] == ["z2d1"]
