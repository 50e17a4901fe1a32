"""The data directory: made, found again, not mistaken."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from ring import ring_file
from ringstead.errors import RingsteadError, UsageError
from ringstead.one_machine.layout import DataDirectory, Shape, load_shape, open_directory, reconcile, service_names
from ringstead.settings.config import ProxyConfig, StorageConfig
from ringstead.settings.config_file import load


def mode(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_everything(tmp_path: Path) -> None:
    """Key, ring, settings and folders are there, secret ones for their owner only."""
    directory = DataDirectory(tmp_path / "data")
    shape, notes = open_directory(directory, {"port": 7321, "zones": 3, "devices_per_zone": 2})
    assert notes == []
    assert mode(directory.key_file) == mode(directory.shape_file) == 0o600
    assert mode(directory.run_dir) == 0o700
    ring = ring_file.load(directory.ring_file)
    assert ring.replica_count == 3
    devices = [device for device in ring.devices if device is not None]
    assert [device.name for device in devices] == ["z1d1", "z1d2", "z2d1", "z2d2", "z3d1", "z3d2"]
    assert len({device.port for device in devices}) == 6
    names = service_names(shape)
    writers = {load(ProxyConfig, directory.config_file(name)).writer for name in names["proxy"]}
    assert len(writers) == 2
    storage = load(StorageConfig, directory.config_file("storage-z2d1"))
    assert storage.devices == ("z2d1",)
    assert storage.listen == f"127.0.0.1:{devices[2].port}"


def test_a_second_start_finds_the_same(tmp_path: Path) -> None:
    """Without options everything is as it was, key and ring untouched."""
    directory = DataDirectory(tmp_path / "data")
    first, _ = open_directory(directory, {"port": 7321, "zones": 2})
    kept = [path.read_bytes() for path in (directory.key_file, directory.ring_file, directory.shape_file)]
    second, notes = open_directory(directory, {})
    assert second == first == load_shape(directory)
    assert notes == []
    assert kept == [path.read_bytes() for path in (directory.key_file, directory.ring_file, directory.shape_file)]


def test_processes_follow_what_is_asked_and_data_stays() -> None:
    """Port and workers change, zones and devices become more but not fewer; all is said."""
    shape, notes = reconcile(Shape(), {"port": 9000, "workers": 4, "zones": 2, "devices_per_zone": 2})
    assert shape == Shape(port=9000, workers=4)
    assert len(notes) == 3
    assert any("--zones 2 is not done: this cluster has 3" in note for note in notes)
    assert reconcile(Shape(), {"zones": 4})[0] == Shape(zones=4)


def test_a_new_port_reaches_the_proxies(tmp_path: Path) -> None:
    """What an operator changed in a settings file stays when port and workers change."""
    directory = DataDirectory(tmp_path / "data")
    open_directory(directory, {"port": 7321})
    file = directory.config_file("proxy-1")
    file.write_text(file.read_text() + 's3_domains = ["s3.example.com"]\n')
    open_directory(directory, {"port": 7322, "workers": 3})
    first, third = (load(ProxyConfig, directory.config_file(f"proxy-{number}")) for number in (1, 3))
    assert (first.port, first.s3_domains) == (7322, ("s3.example.com",))
    assert (third.port, third.writer) == (7322, 3)


def test_a_half_made_directory_is_made_anew(tmp_path: Path) -> None:
    """A start that died before the end left no data, so the next one begins again."""
    directory = DataDirectory(tmp_path / "data")
    open_directory(directory, {"port": 7321})
    directory.shape_file.unlink()
    open_directory(directory, {"port": 7321, "zones": 1})
    assert load_shape(directory).zones == 1


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    """A folder with other things in it, or with devices whose cluster.toml is lost, is refused."""
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RingsteadError, match="not empty"):
        open_directory(DataDirectory(tmp_path), {})
    directory = DataDirectory(tmp_path / "data")
    open_directory(directory, {"port": 7321})
    (directory.devices_dir / "z1d1").mkdir()
    directory.shape_file.unlink()
    with pytest.raises(RingsteadError, match="not empty"):
        open_directory(directory, {})


def test_a_moved_directory_still_works(tmp_path: Path) -> None:
    """Settings find key, ring and devices behind a move."""
    open_directory(DataDirectory(tmp_path / "one"), {"port": 7321})
    shutil.move(tmp_path / "one", tmp_path / "two")
    config = load(ProxyConfig, tmp_path / "two" / "config" / "proxy-1.toml")
    assert config.ring_file.resolve() == (tmp_path / "two" / "cluster.ring").resolve()
    assert config.ring_file.exists()


@pytest.mark.parametrize("asked", [{"port": 0}, {"zones": 0}, {"devices_per_zone": 65}, {"workers": -1}])
def test_shapes_that_cannot_be_are_refused(tmp_path: Path, asked: dict[str, int]) -> None:
    """A number outside its range makes nothing."""
    with pytest.raises(UsageError):
        open_directory(DataDirectory(tmp_path / "data"), asked)
    assert not (tmp_path / "data").exists()


def test_replicas_are_three_or_as_many_as_there_are_devices() -> None:
    """A single device has one copy of everything, honestly."""
    assert Shape(zones=1, devices_per_zone=1).replicas == 1
    assert Shape(zones=1, devices_per_zone=2).replicas == 2
    assert Shape().replicas == 3
