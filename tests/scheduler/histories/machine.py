"""The histories in memory: all that can happen, and what must hold."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize

from scheduler.claims.claim import HostLimit, Quota, SrLimit
from scheduler.claims.memory import MemoryClaims
from tests.scheduler.histories.blind import FULL, BlindClaims
from tests.scheduler.histories.changes import Changes
from tests.scheduler.histories.promises import Promises
from tests.scheduler.histories.requests import Requests
from tests.scheduler.histories.watched import Watched
from tests.scheduler.histories.world import SCHEDULERS
from tests.scheduler.placement.worlds import GIB, clouds, crowded_clouds

QUOTAS = [Quota(), Quota(servers=2, disk_bytes=8 * GIB), Quota(vcpus=4), Quota(memory_mib=2048, volumes=1)]


class Histories(BlindClaims, Requests, Changes, Promises):
    """See the package."""

    def open_claims(self) -> tuple:
        """The claims as each of the schedulers sees them."""
        return (MemoryClaims(lambda: 0.0),) * SCHEDULERS

    @initialize(cloud=st.one_of(crowded_clouds(), crowded_clouds(), clouds()), quota=st.sampled_from(QUOTAS), full=FULL)
    def begin(self, cloud, quota, full):
        """A small cloud, nearly full, and three schedulers that saw it empty."""
        self.hosts, self.srs = cloud
        self.claims = tuple(Watched(claims, self) for claims in self.open_claims())
        self.claims[0].set_limits(map(HostLimit.of, self.hosts), map(SrLimit.of, self.srs))
        self.quota = quota
        self.claims[0].set_quota("red", quota)
        self.schedulers = [self.new_scheduler(number) for number in range(SCHEDULERS)]
        self.model = {}
        self.committed = {}
        self.requests = {}
        self.keys = {}
        self.allowed = {}
        self.knows_limits = [True] * SCHEDULERS
        self.key_count = 0
        self.claim_blindly(full, 0)
