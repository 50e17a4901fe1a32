"""Settings: read, checked, written."""

from __future__ import annotations

import contextlib
import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringstead.errors import ConfigError
from ringstead.settings.config import CONFIG_CLASSES, ProxyConfig, ServiceConfig, StorageConfig
from ringstead.settings.config_file import load, load_any, parse, render

BASE = Path("/etc/ringstead")


@pytest.mark.parametrize("config_class", CONFIG_CLASSES.values(), ids=lambda c: c.service)
def test_rendered_defaults_parse_to_the_same(config_class: type[ServiceConfig]) -> None:
    """What `config show` prints is a valid file that sets what is the default anyway."""
    config = config_class()
    again = parse(config_class, render(config), base=Path(), source="shown")
    assert again == config


@pytest.mark.parametrize("config_class", CONFIG_CLASSES.values(), ids=lambda c: c.service)
def test_every_setting_is_explained(config_class: type[ServiceConfig]) -> None:
    """Each field has a sentence, and numbers say their unit or what they count."""
    for field in dataclasses.fields(config_class):
        assert field.metadata["text"].endswith("."), field.name


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """A path in a file means the same whatever the working directory is."""
    file = tmp_path / "config" / "proxy.toml"
    file.parent.mkdir()
    file.write_text('ring_file = "../cluster.ring"\ncluster_key_file = "/etc/key"\n')
    config = load(ProxyConfig, file)
    assert config.ring_file == tmp_path.resolve() / "cluster.ring"
    assert config.cluster_key_file == Path("/etc/key")


def test_a_data_directory_can_be_moved() -> None:
    """Paths inside the data directory are written relative to the settings' folder."""
    config = StorageConfig(devices_dir=Path("/srv/data/devices"), socket_dir=Path("/run/ringstead"))
    written = tomllib.loads(render(config, base=Path("/srv/data/config")))
    assert written["devices_dir"] == "../devices"
    assert written["socket_dir"] == "/run/ringstead"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("prot = 80", "unknown setting 'prot'; did you mean 'port'?"),
        ('port = "80"', "port: expected a whole number, got '80'"),
        ("port = true", "port: expected a whole number, got True"),
        ("port = 0", "port: 0 is below the least allowed, 1"),
        ("port = 65536", "port: 65536 is above the most allowed, 65535"),
        ("writer = 4000", "writer: 4000 is above the most allowed"),
        ("idle_timeout_s = nan", "idle_timeout_s: nan is no number"),
        ("s3_domains = [1]", "s3_domains: expected a list of texts"),
        ('access_log = "no"', "access_log: expected true or false"),
        ('log_level = "loud"', "log_level: 'loud' is none of debug, info, warning, error"),
        ('ring_file = ""', "ring_file: expected a path"),
        ("port = ", "Invalid value"),
        ('service = "storage"', "these are settings for 'storage', not for 'proxy'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, complaint: str) -> None:
    """File, key and value are in the message, and the message is one line."""
    with pytest.raises(ConfigError) as caught:
        parse(ProxyConfig, text, base=BASE, source="proxy.toml")
    message = str(caught.value)
    assert message.startswith("proxy.toml: ")
    assert complaint in message
    assert "\n" not in message


@given(st.text(max_size=200))
def test_any_text_is_settings_or_a_config_error(text: str) -> None:
    """No text makes the reader fail in another way."""
    with contextlib.suppress(ConfigError):
        parse(ProxyConfig, text, base=BASE, source="x")


@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    domains=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), max_size=3),
    port=st.integers(1, 65535),
    idle_s=st.floats(1, 3600),
)
def test_settings_survive_writing(name: str, domains: list[str], port: int, idle_s: float) -> None:
    """Whatever is set reads back as it was, every character of it."""
    config = ProxyConfig(name=name, s3_domains=tuple(domains), port=port, idle_timeout_s=idle_s)
    assert parse(ProxyConfig, render(config, defaults=False), base=Path(), source="x") == config


def test_a_file_says_whose_it_is(tmp_path: Path) -> None:
    """`config check` finds the class by the file's own word, and asks for it where it is missing."""
    file = tmp_path / "x.toml"
    file.write_text('service = "storage"\ndevices = ["sdb"]\n')
    assert load_any(file) == dataclasses.replace(load(StorageConfig, file))
    file.write_text("port = 1\n")
    with pytest.raises(ConfigError, match="service"):
        load_any(file)
    file.write_text('service = "toaster"\n')
    with pytest.raises(ConfigError, match="no service 'toaster'"):
        load_any(file)
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_any(file)
    with pytest.raises(ConfigError, match="No such file"):
        load_any(tmp_path / "absent.toml")
