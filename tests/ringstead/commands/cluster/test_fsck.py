"""`ringstead fsck`: what it says and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ringstead.commands.cluster.fsck import fsck
from storage_node.device import Device
from storage_node.operations import PutCatalog, PutObject, PutRow
from tests.storage_node.devices import die, flip_byte, hash_of, make_device


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A device with an object, a container and a row."""
    made = make_device(tmp_path / "device")
    made.apply([PutObject(hash_of(1), b"/a/c/o", 5, b"meta", b"data" * 50), PutCatalog(1, hash_of(2), b"/a/c", 1, {})])
    made.apply([PutRow(1, hash_of(2), b"o", 5, 0, False, 1, 200, b"")])
    return made


def run(device: Device, *options: str) -> Result:
    """fsck on its directory."""
    return CliRunner().invoke(fsck, [str(device.path), *options])


def test_a_sound_device_is_clean(device: Device) -> None:
    """Exit code 0 and the figures, for people and as JSON."""
    device.close()
    result = run(device)
    assert result.exit_code == 0
    assert "clean" in result.output
    assert "1 objects" in result.output
    found = json.loads(run(device, "--json", "--deep").output)
    assert found["clean"] is True
    assert found["figures"]["rows"] == 1
    assert found["findings"] == []


def test_a_device_that_was_killed_is_recovered_and_clean(device: Device) -> None:
    """What `recent` showed to readers is compared with what recovery makes of the log."""
    die(device)
    found = json.loads(run(device, "--json").output)
    assert found["clean"] is True
    assert found["figures"]["recent_entries"] == 3


def test_a_damaged_record_is_a_problem(device: Device) -> None:
    """Exit code 1, and where it is."""
    device.close()
    flip_byte(device.path / "log" / "0000000001.seg", 150)
    result = run(device)
    assert result.exit_code == 1
    assert "segment 1" in result.output
    assert "repair it from its peers" in result.output
    parts = {finding["part"] for finding in json.loads(run(device, "--json").output)["findings"]}
    assert parts == {"log", "index"}


def test_a_device_that_is_served_is_not_examined(device: Device) -> None:
    """Exit code 2, and what to do."""
    result = run(device)
    assert result.exit_code == 2
    assert "in use" in result.output
    assert "Stop the storage service" in result.output
    assert json.loads(run(device, "--json").output)["clean"] is None
    device.close()


def test_a_directory_without_a_device_is_refused(tmp_path: Path) -> None:
    """Exit code 2 as well, whether or not it exists."""
    for path in (tmp_path, tmp_path / "nothing"):
        result = CliRunner().invoke(fsck, [str(path)])
        assert result.exit_code == 2
        assert "no device" in result.output


def test_a_fenced_device_says_so(device: Device) -> None:
    """A fence is no problem of the data, but an operator should see it."""
    device.fence("for a test")
    device.close()
    result = run(device)
    assert result.exit_code == 0
    assert "for a test" in result.output
