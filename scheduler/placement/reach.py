"""Which host reaches which SR, both ways, and what lies in which availability zone: the part of the picture that stands.

It is computed once for the hosts and SRs of an inventory. For vectors there is a table with a row per host, filled up with
an index past the last SR, which stands for no SR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ring.topology import ZONE_MAX
from scheduler.placement.resources import Host, Sr, Zone


class Reach:
    """Hosts and SRs by their indexes.

    reached_by   for each SR the hosts that reach it
    in_reach     for each host the SRs that it reaches
    in_zone      the SRs of an availability zone
    zones        each host's availability zone as one number
    table        for each host a row of the SRs that it reaches, filled up with no SR
    """

    def __init__(self, hosts: Sequence[Host], srs: Sequence[Sr], host_index: Mapping[str, int]) -> None:
        in_reach: list[list[int]] = [[] for _ in hosts]
        self.reached_by: list[NDArray[np.intp]] = []
        in_zone: dict[Zone, list[int]] = {}
        for sr_index, sr in enumerate(srs):
            reached = sorted(host_index[host_id] for host_id in sr.host_ids if host_id in host_index)
            self.reached_by.append(np.array(reached, dtype=np.intp))
            for index in reached:
                in_reach[index].append(sr_index)
            in_zone.setdefault(sr.zone, []).append(sr_index)
        self.in_reach = [tuple(reached) for reached in in_reach]
        self.in_zone = {zone: tuple(found) for zone, found in in_zone.items()}
        self.zones: NDArray[np.int64] = np.array([zone_number(host.zone) for host in hosts], dtype=np.int64)
        width = max((len(found) for found in self.in_reach), default=0) or 1
        self.table: NDArray[np.intp] = np.full((len(hosts), width), len(srs), dtype=np.intp)
        for index, found in enumerate(self.in_reach):
            self.table[index, : len(found)] = found


def zone_number(zone: Zone) -> int:
    """A zone as one number, the same always."""
    return zone[0] * (ZONE_MAX + 1) + zone[1]
