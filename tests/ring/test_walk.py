"""The beginning of a walk is the walk's beginning."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ring.topology import Device
from ring.walk import WalkOrder

DEVICES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 20), st.sampled_from([0.0, 1.0, 1.0, 2.5])),
    max_size=60,
).map(
    lambda rows: [
        Device(number, region, zone, f"n{node}", 0, f"d{number}", weight, "host")
        for number, (region, zone, node, weight) in enumerate(rows)
    ]
)


@settings(max_examples=200, deadline=None)
@given(DEVICES, st.integers(0, 2**32), st.integers(0, 2**64 - 1), st.integers(0, 70))
def test_head_is_where_the_walk_begins(devices, number, seed, count):
    """`head` names the first devices with weight of `walk`, of all or of one zone, though it sorts only a few."""
    order = WalkOrder(devices)
    walk = order.walk(number, seed)
    assert sorted(device.id for device in walk) == [device.id for device in devices]
    heavy = [device for device in walk if device.weight > 0]
    assert walk[: len(heavy)] == tuple(heavy)
    assert [devices[index] for index in order.head(number, seed, count)] == heavy[:count]
    for zone in {(device.region, device.zone) for device in devices} | {(9, 9)}:
        of_zone = [device for device in heavy if (device.region, device.zone) == zone]
        assert [devices[index] for index in order.head(number, seed, count, zone)] == of_zone[:count]
