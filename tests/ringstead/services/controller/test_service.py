"""What a controller's settings turn."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from ringstead.errors import ConfigError
from ringstead.services.controller.service import controller_settings, placement_settings
from ringstead.settings.config import ControllerConfig
from ringstead.settings.config_file import parse
from scheduler.lifecycle.controller import ControllerSettings
from scheduler.placement.settings import PlacementSettings


def test_every_weigher_has_a_setting() -> None:
    """Without a word in the file placement is as by default; each multiplier that is set arrives, and only there."""
    assert placement_settings(ControllerConfig()) == PlacementSettings()
    names = [field.name for field in fields(ControllerConfig) if field.name.startswith("placement_")]
    for name in names:
        text = f"{name} = 7" + ("" if name == "placement_choice_count" else ".5")
        config = parse(ControllerConfig, text, base=Path("/"), source="controller.toml")
        wanted = replace(PlacementSettings(), **{name.removeprefix("placement_"): getattr(config, name)})
        assert placement_settings(config) == wanted != PlacementSettings()
    assert set(names) == {
        f"placement_{field.name}"
        for field in fields(PlacementSettings)
        if field.name not in {"alternate_count", "sr_spread"}
    }


def test_a_multiplier_that_is_none_stops_the_start() -> None:
    """Packing is a negative spread; what is out of range is said with file and key."""
    config = parse(ControllerConfig, "placement_spread = -1.0", base=Path("/"), source="controller.toml")
    assert placement_settings(config).spread == -1.0
    with pytest.raises(ConfigError, match="placement_choice_count"):
        parse(ControllerConfig, "placement_choice_count = 0", base=Path("/"), source="controller.toml")


def test_the_controllers_own_settings_arrive() -> None:
    """Defaults are the scheduler's own; what the file says is what a controller works by."""
    assert controller_settings(ControllerConfig()) == ControllerSettings()
    text = "vcpu_ratio = 1.5\nlook_s = 3.0\nlease_s = 7.0"
    found = controller_settings(parse(ControllerConfig, text, base=Path("/"), source="controller.toml"))
    assert (found.vcpu_ratio, found.look_s, found.executor.lease_s) == (1.5, 3.0, 7.0)
    with pytest.raises(ConfigError, match="vcpu_ratio"):
        parse(ControllerConfig, "vcpu_ratio = 0.0", base=Path("/"), source="controller.toml")
