"""What SeaweedFS says is understood."""

from __future__ import annotations

from typing import Any

from bench.systems.seaweedfs import nodes_in, syncs_everything, version_in


def test_the_version_is_the_number_behind_the_size_limit() -> None:
    """With a commit and without."""
    assert version_in("version 30GB 4.53  linux amd64\n") == "4.53"
    assert version_in("version 30GB 3.80 7b3d8d1 linux amd64\n") == "3.80"


def test_volume_servers_are_counted_over_racks() -> None:
    """All racks of all data centers; none where the master knows none yet."""
    racks: list[dict[str, Any]] = [{"DataNodes": [{}, {}]}, {"DataNodes": None}, {"DataNodes": [{}]}]
    assert nodes_in({"Topology": {"DataCenters": [{"Racks": racks}, {"Racks": racks[:1]}]}}) == 5
    assert nodes_in({"Topology": {"DataCenters": None}}) == 0


def test_only_a_rule_for_buckets_that_syncs_will_do() -> None:
    """Another rule's fsync is not ours, and false is not true."""
    rule = '{\n  "locations":  [\n    {\n      "locationPrefix":  "%s",\n      "fsync":  %s\n    }\n  ]\n}\n'
    assert syncs_everything(rule % ("/buckets/", "true"))
    assert not syncs_everything(rule % ("/buckets/", "false"))
    assert not syncs_everything(rule % ("/other/", "true"))
    assert not syncs_everything("master: localhost:9333\n")
