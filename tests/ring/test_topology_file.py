"""The topology file: what people read and edit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring.topology import Device, Topology, TopologyError
from ring.topology_file import Design, Settings, TopologyFileError, dumps, loads, read
from tests.ring.histories import design_of, designs, devices

HEAD = """
version = 1
[ring]
part_power = 8
replicas = 3.0
min_part_hours = 1
seed = 5
"""
NODE = '[region.1.zone.2.node."10.0.0.1"]\n'

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)


@given(designs(), st.dictionaries(texts, texts, max_size=3), st.integers(0, 2**64 - 1))
@settings(max_examples=80, deadline=None)
def test_what_is_written_is_read_back(design: Design, meta: dict[str, str], seed: int):
    """Whatever a design holds, its text gives it back."""
    first, *rest = design.topology
    marked = replace(first, meta=meta, kind="sr", node="2001:db8::1", name='ü"\\')
    design = Design(replace(design.settings, seed=seed), Topology.of([marked, *rest]))
    assert read(dumps(design)) == (design, True)


def test_a_device_is_a_line():
    """Moving a device to another zone is moving its line, and the id stays."""
    placed = [replace(device, name=f"sd{device.id}") for device in devices(3)]
    text = dumps(design_of(placed, 4))
    line = next(line for line in text.splitlines() if "id = 2" in line)
    moved = text.replace(line + "\n", "").replace("  { id = 0", f"{line}\n  {{ id = 0")
    assert [(d.id, d.zone, d.node) for d in loads(moved).topology] == [
        (0, 0, "10.0.0.0"),
        (1, 1, "10.0.0.1"),
        (2, 0, "10.0.0.0"),
    ]


def test_lines_without_ids_get_free_ones():
    """A new line gets an id that nothing had; one of a device that the memory knows gets that device's."""
    text = HEAD + NODE + 'devices = [{name = "a", port = 1, weight = 1}, {id = 0, name = "b", port = 1, weight = 1}]'
    design, numbered = read(text)
    assert not numbered
    assert {d.name: d.id for d in design.topology} == {"a": 1, "b": 0}
    known = {("10.0.0.9", 1, "gone"): 1, ("10.0.0.1", 1, "a"): 7}
    assert {d.name: d.id for d in loads(text, known).topology} == {"a": 7, "b": 0}
    known = {("10.0.0.9", 1, "gone"): 1}
    assert {d.name: d.id for d in loads(text, known).topology} == {"a": 2, "b": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "no TOML"),
        ("a = 1", "no `version`"),
        (HEAD.replace("version = 1", "version = 2"), "version 2, and this program knows up to 1: use a newer one"),
        ("version = 1", r"no table \[ring\]"),
        (HEAD.replace("replicas = 3.0\n", ""), "has no `replicas`"),
        (HEAD.replace("3.0", '"3"'), "replicas '3' is no number"),
        (HEAD.replace("3.0", "nan"), "not finite"),
        (HEAD.replace("power = 8", "power = 33"), "part power 33 is outside 0..32"),
        (HEAD + "colour = 1", "has no `colour`"),
        (HEAD + "[zone]", "there is no `zone` in a topology file"),
        (HEAD + "[region.x]", "region 'x' is no number"),
        (HEAD + "[region.1]\nnode = 1", "region 1: only `zone` may stand here"),
        (HEAD + NODE + "devices = 1", "`devices` is no list"),
        (HEAD + NODE + "devices = [1]", "1 is no device"),
        (HEAD + NODE + "devices = [{port = 1, weight = 1}]", "a device has no `name`"),
        (HEAD + NODE + 'devices = [{name = "a", weight = 1}]', "device a: port None is no whole number"),
        (HEAD + NODE + 'devices = [{name = "a", port = 1, weight = -1}]', "device a: weight -1 is negative"),
        (HEAD + NODE + 'devices = [{name = "a", port = 1, weight = inf}]', "weight inf is not finite"),
        (HEAD + NODE + 'devices = [{name = "a", port = 1, weight = 1, size = 2}]', "a device has no `size`"),
        (HEAD + NODE + 'devices = [{name = "a", port = 1, weight = 1, kind = "tape"}]', "kind 'tape' is none of"),
        (HEAD + NODE + 'devices = [{name = "a", port = 1, weight = 1, meta = {x = 1}}]', "no table of strings"),
        (
            HEAD + NODE + 'devices = [{name = "a", port = 1, weight = 1}, {name = "a", port = 1, weight = 1}]',
            "is there",
        ),
        (
            HEAD + NODE + 'devices = [{id = 1, name = "a", port = 1, weight = 1}, {id=1, name="b", port=1, weight=1}]',
            "twice",
        ),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str):
    """Each mistake is refused with what it is and where."""
    with pytest.raises(TopologyFileError, match=message):
        loads(text)


def test_settings_are_checked():
    """Settings out of range can't be made."""
    for values in ((8, 0.5, 1), (8, 65.0, 1), (8, 3.0, -1), (8, float("nan"), 1), (-1, 3.0, 1)):
        with pytest.raises(TopologyError):
            Settings(*values)
    with pytest.raises(TopologyError):
        Settings(8, 3.0, 1, overload=-0.1)


def test_devices_are_frozen_and_named_as_operators_name_them():
    """A device reads as Swift writes it, IPv6 in brackets."""
    assert str(Device(0, 1, 2, "10.0.0.1", 6200, "sdb", 1.0)) == "r1z2-10.0.0.1:6200/sdb"
    assert str(Device(0, 1, 2, "::1", 6200, "sdb", 1.0)) == "r1z2-[::1]:6200/sdb"
