"""Designs and changes of them for tests: small, odd, and from a seed or from Hypothesis."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import strategies as st

from ring.topology import Device, Topology
from ring.topology_file import Design, Settings


def devices(count: int, zones: int = 3, weight: float = 100.0) -> list[Device]:
    """`count` equal devices, one a node, over some zones."""
    return [Device(i, 1, i % zones, f"10.0.0.{i}", 6200, "sda", weight) for i in range(count)]


def design_of(
    placed: list[Device], part_power: int = 6, replicas: float = 3.0, hours: int = 0, overload: float = 0.0
) -> Design:
    """The design of these devices."""
    return Design(Settings(part_power, replicas, hours, overload, seed=5), Topology.of(placed))


weights = st.sampled_from([1.0, 1.0, 1.0, 2.0, 4.0, 0.5, 100.0])
places = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 3))
replica_counts = st.sampled_from([1.0, 2.0, 2.5, 3.0, 3.0, 3.25, 4.0])
overloads = st.sampled_from([0.0, 0.0, 0.1, 0.5, 2.0])


@st.composite
def designs(draw: st.DrawFn, power_max: int = 5) -> Design:
    """A design that can be built: as many devices with weight as replicas, at least."""
    replicas = draw(replica_counts)
    count = draw(st.integers(-(-int(replicas * 4) // 4) + 1, 12))
    settings = Settings(draw(st.integers(1, power_max)), replicas, 0, draw(overloads), seed=draw(st.integers(0, 9)))
    return Design(settings, Topology.of(_device(number, draw(places), draw(weights)) for number in range(count)))


def _device(number: int, place: tuple[int, int, int], weight: float) -> Device:
    region, zone, node = place
    return Device(number, region, zone, f"10.{zone}.0.{node}", 6200, f"sd{number}", weight)


def change(design: Design, rng: random.Random, taken: int) -> Design:
    """The design after something that operators do: adds, removals, failures, weights, replicas, overload.

    New devices get ids from `taken` on.
    """
    placed = list(design.topology)
    settings = design.settings
    kind = rng.choice(("add", "add", "node", "remove", "weight", "drain", "zone", "replicas", "overload"))
    if kind in ("add", "node"):
        place = (rng.randint(1, 2), rng.randint(1, 4), rng.randint(1, 3))
        fresh = rng.randint(1, 4) if kind == "node" else 1
        placed += [_device(taken + index, place, rng.choice([1.0, 2.0, 4.0])) for index in range(fresh)]
    elif kind == "remove":
        placed.pop(rng.randrange(len(placed)))
    elif kind == "replicas":
        settings = replace(settings, replicas=rng.choice([1.0, 2.0, 2.5, 3.0, 3.5]))
    elif kind == "overload":
        settings = replace(settings, overload=rng.choice([0.0, 0.1, 1.0]))
    else:
        index = rng.randrange(len(placed))
        old = placed[index]
        fresh_weight = 0.0 if kind == "drain" else rng.choice([0.3, 1.0, 5.0])
        zone = rng.randint(1, 4) if kind == "zone" else old.zone
        placed[index] = replace(old, weight=old.weight if kind == "zone" else fresh_weight, zone=zone)
    while sum(1 for device in placed if device.weight > 0) < settings.replicas:
        number = max([taken, *(device.id + 1 for device in placed)])
        placed.append(_device(number, (1, rng.randint(1, 4), rng.randint(1, 3)), 1.0))
    return Design(settings, Topology.of(placed))
