"""From records to facts: whatever a pool sends, and whose each thing is."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scheduler.xen import facts, tags
from scheduler.xen.picture import CLASSES, Picture

REFS = ["OpaqueRef:1", "OpaqueRef:2", "OpaqueRef:NULL", ""]
FIELD_NAMES = """
    uuid name_label address metrics enabled live memory_total memory_overhead cpu_info host_CPUs tags master PBDs VDIs SR VM
    VDI VBDs host type shared physical_size physical_utilisation virtual_allocation currently_attached PIFs bridge
    power_state resident_on is_a_template is_a_snapshot is_control_domain other_config virtual_size userdevice device
    software_version network memory_static_max VCPUs_max
"""
TAGS = {"ringstead-cluster": "c1", "ringstead-server": "s1", "ringstead-build": "x"}
SHAPES = [
    *[None, True, 7, -1, 0.5, *REFS, "7", "-1", "\u00b2", "--5", "Running", "Disk", "true"],
    *[[], ["OpaqueRef:1", 3], [[]], {}, TAGS, {"cpu_count": "many"}],
]
records = st.dictionaries(st.sampled_from(FIELD_NAMES.split()), st.sampled_from(SHAPES), max_size=12)
tables = st.fixed_dictionaries({name: st.dictionaries(st.sampled_from(REFS[:2]), records) for name in CLASSES})


@given(tables)
def test_any_records_make_an_inventory(given_tables: dict[str, dict[str, Any]]) -> None:
    """Fields of any type, references to nowhere, missing everything: facts with empty fields, never an accident."""
    picture = Picture()
    picture.tables = dict(given_tables)
    hosts = tuple(
        facts.host_facts(picture, ref, host, free_bytes=0, live=True) for ref, host in picture.table("host").items()
    )
    made = facts.inventory(picture, "c1", hosts)
    assert len(made.hosts) == len(given_tables["host"])
    assert all(sr.size_bytes >= 0 for sr in made.srs)


def vm(config: dict[str, str], **fields: Any) -> dict[str, Any]:
    """A VM or VDI record."""
    return {"other_config": config, "is_a_snapshot": False, "name_label": "x", **fields}


def test_whose_a_thing_is() -> None:
    """By cluster first; snapshots inherit tags and are read apart."""
    ours = tags.for_server("c1", "s1", 3)
    assert (tags.server_of(vm(ours), "c1"), tags.build_of(vm(ours), "c1")) == ("s1", 3)
    assert tags.is_unfinished(vm(ours), "c1")
    assert tags.server_of(vm(ours), "c2") == ""
    snapshot = vm({**ours, tags.SNAPSHOT: "n1"}, is_a_snapshot=True)
    assert (tags.server_of(snapshot, "c1"), tags.snapshot_of_server(snapshot, "c1")) == ("s1", "n1")
    assert tags.snapshot_of_server(vm({**ours, tags.SNAPSHOT: "n1"}), "c1") == ""


def test_disks_and_their_snapshots() -> None:
    """A server's snapshot has disks that are nobody's id; a snapshot that was asked for as a disk has its own."""
    disk = tags.for_disk("c1", "d1", "s1")
    assert (tags.disk_of(vm(disk), "c1"), tags.owner_of(vm(disk), "c1"), tags.origin_of(vm(disk), "c1")) == (
        "d1",
        "s1",
        "",
    )
    inside = vm(disk, is_a_snapshot=True)
    assert (tags.disk_of(inside, "c1"), tags.origin_of(inside, "c1")) == ("", "d1")
    own = vm(tags.for_snapshot("c1", "d2", "d1"), is_a_snapshot=True)
    assert (tags.disk_of(own, "c1"), tags.origin_of(own, "c1"), tags.owner_of(own, "c1")) == ("d2", "d1", "")
    assert not tags.is_unfinished(own, "c1")
    pending = vm({**disk, tags.SNAPSHOT: "d3"}, is_a_snapshot=True)
    assert tags.pending_snapshot_of(pending, "c1") == "d3"


def test_a_clone_says_by_its_name_whose_it_is() -> None:
    """Until its tags are on; a name that only looks like it, or of another cluster, is nobody's."""
    name = tags.birth_name("c1", "s-1", 12)
    born = vm({}, name_label=name)
    assert (tags.server_of(born, "c1"), tags.build_of(born, "c1"), tags.is_unfinished(born, "c1")) == ("s-1", 12, True)
    assert tags.server_of(born, "c2") == ""
    assert tags.server_of(vm({}, name_label=name + "!"), "c1") == ""
    assert tags.server_of(vm({tags.CLUSTER: "c1"}, name_label=name), "c1") == ""
