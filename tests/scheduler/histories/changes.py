"""Hosts and SRs that fail, shrink, close, come back and are added, and schedulers that look again."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from scheduler.claims.claim import HostLimit, SrLimit
from tests.scheduler.histories.world import SCHEDULERS, WHICH, World
from tests.scheduler.placement.worlds import SELDOM, host


class Changes(World):
    """Changes that the claims know at once, and the schedulers perhaps."""

    @rule(data=st.data(), tells=st.lists(WHICH, unique=True))
    def change_host(self, data, tells):
        """A host fails, comes back, shrinks or grows; the claims know at once, the schedulers perhaps."""
        index = data.draw(st.integers(0, len(self.hosts) - 1))
        changed = replace(
            self.hosts[index],
            live=not data.draw(SELDOM),
            maintenance=False,
            enabled=True,
            memory_mib=data.draw(st.sampled_from([2048, 3072, 6144])),
        )
        self.hosts = [*self.hosts[:index], changed, *self.hosts[index + 1 :]]
        self.claims[0].set_limits([HostLimit.of(changed)])
        self.knows_limits = [which in tells and self.knows_limits[which] for which in range(SCHEDULERS)]
        for which in tells:
            inventory = self.schedulers[which].inventory
            if changed.host_id in inventory.host_index:
                inventory.update_host(changed)

    @rule(index=st.integers(0, 7), enabled=st.sampled_from([True, True, False]), tells=st.lists(WHICH, unique=True))
    def change_sr(self, index, enabled, tells):
        """An operator closes an SR or opens it again."""
        index %= len(self.srs)
        changed = replace(self.srs[index], enabled=enabled)
        self.srs = [*self.srs[:index], changed, *self.srs[index + 1 :]]
        self.claims[0].set_limits((), [SrLimit.of(changed)])
        self.knows_limits = [which in tells and self.knows_limits[which] for which in range(SCHEDULERS)]
        for which in tells:
            self.schedulers[which].inventory.update_sr(changed)

    @precondition(lambda self: len(self.hosts) < 6)
    @rule(zone=st.integers(1, 2), reader=WHICH)
    def add_host(self, zone, reader):
        """A small host comes; one scheduler sees it."""
        number = max(each.device.id for each in self.hosts) + 1
        self.hosts = [*self.hosts, host(number, zone=zone, memory_mib=3072, vcpu_ratio=1.0)]
        self.claims[0].set_limits([HostLimit.of(self.hosts[-1])])
        self.knows_limits = [False] * SCHEDULERS
        self.read(reader)

    @rule(which=WHICH, looks=SELDOM)
    def look(self, which, looks):
        """A scheduler looks again, now and then."""
        if looks:
            self.read(which)
