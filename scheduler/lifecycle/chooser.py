"""Placement as the lifecycle uses it: one picture of hosts and claims, kept in step, asked by one thread at a time.

Problem: placement's `Inventory` is fast because it is changed in place, and it belongs to one thread; actions run in
several, and other controllers claim, too.

Idea: a lock, and three ways in which the picture changes: what the pools hold now (`follow`, every few seconds, which
now and then reads all claims anew), what this controller claims (`scheduler.booking` takes over what it books,
`TrackedClaims` tells of each other change at once), and what a refused claim taught. What is stale beyond that the
commit finds.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from scheduler.booking import Booked, Booking
from scheduler.claims.claim import (
    Batch,
    Change,
    Claim,
    Claims,
    Guard,
    HostLimit,
    HostUsage,
    ProjectUsage,
    Quota,
    Role,
    SrLimit,
    SrUsage,
)
from scheduler.errors import InventoryError
from scheduler.placement.evacuate import plan_evacuation
from scheduler.placement.inventory import Inventory
from scheduler.placement.moves import Move, MovePlan, PlacedServer
from scheduler.placement.place import explain
from scheduler.placement.placement import Explanation
from scheduler.placement.rebalance import plan_rebalance
from scheduler.placement.request import ServerRequest, VolumeRequest
from scheduler.placement.resources import Host, Sr
from scheduler.placement.settings import PlacementSettings

RELOAD_S: Final = 15.0
"""How often all claims are read anew: what others claim in between is found when a claim is committed."""
FAILURE_MEMORY_S: Final = 600.0
"""How long a failed build weighs on a host."""


class RingChooser:
    """Books hosts and SRs. `ring_seed` is the ring's: it decides in which order a server visits hosts."""

    def __init__(
        self,
        claims: Claims,
        monotonic: Callable[[], float],
        *,
        ring_seed: int = 0,
        draw_seed: int = 0,
        settings: PlacementSettings | None = None,
    ) -> None:
        self._claims = claims
        self._monotonic = monotonic
        self._ring_seed = ring_seed
        self._draw_seed = draw_seed
        self._settings = settings or PlacementSettings()
        self._lock = threading.RLock()
        self._booking = Booking(
            Inventory((), (), seed=ring_seed), claims, self._settings, seed=draw_seed, lock=self._lock
        )
        self._failures: deque[tuple[float, str]] = deque()
        self._loaded_at = -math.inf

    def follow(self, hosts: Iterable[Host], srs: Iterable[Sr]) -> None:
        """This is what there is from now on. Where only states and sizes have changed they are changed in place; all claims
        are read anew when anything else has, and now and then, for what other controllers claim."""
        hosts, srs = list(hosts), list(srs)
        with self._lock:
            stale = self._monotonic() - self._loaded_at >= RELOAD_S
            if stale or not self._update(hosts, srs):
                inventory = Inventory(hosts, srs, seed=self._ring_seed)
                inventory.load(self._claims.all(), *self._claims.usage())
                self._booking.inventory, self._loaded_at = inventory, self._monotonic()
            self._weigh_failures()

    def _update(self, hosts: list[Host], srs: list[Sr]) -> bool:
        """Change the picture in place; False where it has to be made anew."""
        old_hosts = {host.host_id: host for host in self._booking.inventory.hosts}
        old_srs = {sr.sr_id: sr for sr in self._booking.inventory.srs}
        if old_hosts.keys() != {host.host_id for host in hosts} or old_srs.keys() != {sr.sr_id for sr in srs}:
            return False
        try:
            for host in hosts:
                if host != old_hosts[host.host_id]:
                    self._booking.inventory.update_host(host)
            for sr in srs:
                if sr != old_srs[sr.sr_id]:
                    self._booking.inventory.update_sr(sr)
        except InventoryError:  # it has another place, or is reached by other hosts
            return False
        return True

    def apply(self, change: Change) -> None:
        """Claims have changed."""
        with self._lock:
            self._booking.inventory.apply(change)

    def note_failure(self, host_id: str) -> None:
        """A build failed there."""
        with self._lock:
            self._failures.append((self._monotonic(), host_id))
            self._weigh_failures()

    def book(self, request: ServerRequest, key: str, role: Role = Role.HELD, *, guard: Guard | None = None) -> Booked:
        """Choose where a server goes and claim it. See `Booking.book`."""
        return self._booking.book(request, key, role, guard=guard)

    def book_volume(self, request: VolumeRequest, key: str, *, guard: Guard | None = None) -> Booked:
        """Choose where a volume goes and claim it. See `Booking.book_volume`."""
        return self._booking.book_volume(request, key, guard=guard)

    def book_together(self, moves: Sequence[Move], key: str, *, guard: Guard | None = None) -> Change:
        """Claim where servers that move together go. See `Booking.book_together`."""
        return self._booking.book_together(moves, key, guard=guard)

    def explain(self, request: ServerRequest) -> Explanation:
        """The same with a verdict on every host."""
        with self._lock:
            self._look_at_group(request)
            return explain(self._booking.inventory, request, self._settings, seed=self._draw_seed)

    def plan_evacuation(self, host_ids: Sequence[str], servers: Mapping[str, ServerRequest]) -> MovePlan:
        """How to empty these hosts of these servers."""
        with self._lock:
            self._reload()
            return plan_evacuation(
                self._booking.inventory, self._placed(servers), host_ids, self._settings, seed=self._draw_seed
            )

    def plan_rebalance(self, host_ids: Sequence[str], servers: Mapping[str, ServerRequest]) -> MovePlan:
        """How to level the load of these hosts by moving some of these servers among them."""
        with self._lock:
            self._reload()
            return plan_rebalance(self._booking.inventory, self._placed(servers), host_ids, self._settings)

    def _placed(self, servers: Mapping[str, ServerRequest]) -> list[PlacedServer]:
        placed = []
        for server_id, request in servers.items():
            member = self._booking.inventory.server(server_id)
            if member is not None and member.held is not None:
                placed.append(PlacedServer(request, member.held))
        return placed

    def hosts(self) -> tuple[Host, ...]:
        """All hosts, in the order of their devices."""
        with self._lock:
            return tuple(self._booking.inventory.hosts)

    def srs(self) -> tuple[Sr, ...]:
        """All SRs."""
        with self._lock:
            return tuple(self._booking.inventory.srs)

    def _reload(self) -> None:
        """Read all claims anew."""
        self._loaded_at = -math.inf
        self.follow(self._booking.inventory.hosts, self._booking.inventory.srs)

    def _look_at_group(self, request: ServerRequest) -> None:
        if request.membership is not None:
            group = request.membership.group_id
            self._booking.inventory.refresh_members(group, self._claims.members(group))

    def _weigh_failures(self) -> None:
        horizon = self._monotonic() - FAILURE_MEMORY_S
        while self._failures and self._failures[0][0] < horizon:
            self._failures.popleft()
        counts: dict[str, int] = {}
        for _, host_id in self._failures:
            counts[host_id] = counts.get(host_id, 0) + 1
        self._booking.inventory.set_failures(counts)


class TrackedClaims:
    """Claims whose every change by this controller is told to its picture at once."""

    def __init__(self, claims: Claims, told: Callable[[Change], None]) -> None:
        self._claims = claims
        self._told = told

    def commit(self, batch: Batch, *, guard: Guard | None = None) -> Change:
        """As `Claims`."""
        return self._tell(self._claims.commit(batch, guard=guard))

    def release(self, owners: Iterable[str], *, guard: Guard | None = None) -> Change:
        """As `Claims`."""
        return self._tell(self._claims.release(owners, guard=guard))

    def finish_move(self, owners: Iterable[str], *, guard: Guard | None = None) -> Change:
        """As `Claims`."""
        return self._tell(self._claims.finish_move(owners, guard=guard))

    def abort_move(self, owners: Iterable[str], *, guard: Guard | None = None) -> Change:
        """As `Claims`."""
        return self._tell(self._claims.abort_move(owners, guard=guard))

    def grow(self, owner: str, disk_id: str, size_bytes: int, *, guard: Guard | None = None) -> Change:
        """As `Claims`."""
        return self._tell(self._claims.grow(owner, disk_id, size_bytes, guard=guard))

    def made(self, key: str) -> Change | None:
        """As `Claims`."""
        return self._claims.made(key)

    def of(self, owner: str) -> tuple[Claim, ...]:
        """As `Claims`."""
        return self._claims.of(owner)

    def all(self) -> Iterator[Claim]:
        """As `Claims`."""
        return self._claims.all()

    def members(self, group_id: str) -> tuple[Claim, ...]:
        """As `Claims`."""
        return self._claims.members(group_id)

    def usage(self) -> tuple[tuple[HostUsage, ...], tuple[SrUsage, ...]]:
        """As `Claims`."""
        return self._claims.usage()

    def usage_of(self, resource_ids: Iterable[str]) -> tuple[tuple[HostUsage, ...], tuple[SrUsage, ...]]:
        """As `Claims`."""
        return self._claims.usage_of(resource_ids)

    def set_limits(self, hosts: Iterable[HostLimit] = (), srs: Iterable[SrLimit] = ()) -> None:
        """As `Claims`."""
        self._claims.set_limits(hosts, srs)

    def remove(self, resource_ids: Iterable[str]) -> None:
        """As `Claims`."""
        self._claims.remove(resource_ids)

    def set_quota(self, project: str, quota: Quota) -> None:
        """As `Claims`."""
        self._claims.set_quota(project, quota)

    def quota(self, project: str) -> tuple[Quota, ProjectUsage]:
        """As `Claims`."""
        return self._claims.quota(project)

    def forget_keys(self, before_s: float) -> int:
        """As `Claims`."""
        return self._claims.forget_keys(before_s)

    def _tell(self, change: Change) -> Change:
        self._told(change)
        return change
