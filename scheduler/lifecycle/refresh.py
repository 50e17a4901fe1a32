"""What the pools hold, brought into records, limits of claims and placement's picture.

Problem: hosts and SRs come and go in the pools, and nobody should have to enter them by hand; yet a host needs a number in
the topology that it keeps for life, and a limit before anything can be claimed of it.

Idea: after each look at the pools one transaction gives numbers to what is new. The limits follow from the same picture that
placement is given, so both always agree.

Invariants: a number is never given twice; a host that vanished is closed, not forgotten, until its pool is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import structlog
import trio
from sqlalchemy import Connection, select

from ring.topology import Device
from scheduler.claims.claim import Claims, HostLimit, SrLimit
from scheduler.errors import InventoryError, SchedulerError
from scheduler.hypervisor import HypervisorError
from scheduler.lifecycle.database import Database
from scheduler.lifecycle.pools import (
    SYSTEM_SR_TYPES,
    PoolLink,
    Pools,
    hosts_of,
    next_device_id,
    srs_of,
    topology_devices,
)
from scheduler.placement.resources import VCPU_RATIO, Host, Sr
from scheduler.records import store
from scheduler.records.tables import POOLS
from scheduler.records.types import HostRecord, PoolRecord, SrRecord

log = structlog.get_logger("scheduler.refresh")

LOOK_TIMEOUT_S: Final = 20.0
LOOK_AGAIN_TIMEOUT_S: Final = 4.0
"""For a pool that did not answer the last time: the others' looks wait for it. Its own connection gets it back meanwhile, in
its own time, after which a look is short."""
DEVICE_ID_FIRST: Final = 1 << 16
"""Numbers of hosts and SRs begin here, out of the way of disks, whose numbers rings keep tables by."""


class Follows(Protocol):
    """Whoever places by the picture."""

    def follow(self, hosts: Iterable[Host], srs: Iterable[Sr]) -> None:
        """This is what there is from now on."""
        ...


@dataclass
class Refresher:
    """Looks at all pools."""

    database: Database
    claims: Claims
    pools: Pools
    follower: Follows
    enter: Callable[[list[Device]], Mapping[str, int]] | None = None
    """Enters hosts and SRs in the ring's topology; their numbers there by uuid. Blocks; may raise SchedulerError."""
    vcpu_ratio: float = VCPU_RATIO
    """Of hosts without one of their own."""
    _entered: list[Device] = field(default_factory=list)

    async def look(self, *, fresh: bool = False) -> None:
        """Look at every pool at once; one that does not answer in time keeps what it had, with its problem."""
        async with trio.open_nursery() as nursery:
            for pool_id in list(self.pools.links):
                nursery.start_soon(self._look_at, pool_id, fresh)
        await self.settle()

    async def settle(self) -> None:
        """Bring what was seen into records, limits and placement."""
        links = list(self.pools.links.values())
        host_records, sr_records = await self.database.transact(lambda c: _register(c, links))
        hosts: list[Host] = []
        srs: list[Sr] = []
        for link in links:
            try:
                its_hosts, its_srs = hosts_of(link, host_records, self.vcpu_ratio), srs_of(link, sr_records)
            except (InventoryError, ValueError) as error:  # of that pool alone
                link.problem = f"what it says makes no sense: {error}"
                log.warning("a pool makes no sense", pool=link.record.name, reason=str(error))
                continue
            hosts += its_hosts
            srs += its_srs
        await self.database.block(lambda: self._set_limits(hosts, srs, host_records, sr_records))
        self.follower.follow(hosts, srs)
        await self._enter_topology(host_records, sr_records)

    async def _enter_topology(self, hosts: Mapping[str, HostRecord], srs: Mapping[str, SrRecord]) -> None:
        """Hosts and SRs of pools seen so far, once more whenever they change; nothing before every pool was seen."""
        links = list(self.pools.links.values())
        if self.enter is None or any(link.inventory is None for link in links):
            return
        found = [device for link in links for device in topology_devices(link, hosts, srs)]
        if found == self._entered:
            return
        enter = self.enter
        try:
            numbers = await self.database.block(lambda: enter(found))
        except SchedulerError as error:
            log.warning("hosts and SRs could not be entered in the topology", reason=str(error))
            return
        await self.database.transact(lambda c: _renumber(c, hosts, srs, numbers))
        self._entered = [replace(device, id=numbers.get(device.name, device.id)) for device in found]

    async def _look_at(self, pool_id: str, fresh: bool) -> None:
        link = self.pools.links[pool_id]
        before = link.problem
        within_s = LOOK_AGAIN_TIMEOUT_S if before and link.inventory is not None else LOOK_TIMEOUT_S
        try:
            with trio.fail_after(within_s):
                await self.pools.look(pool_id, fresh=fresh)
        except HypervisorError as error:
            if str(error) != before:
                log.warning("a pool cannot be used", pool=link.record.name, reason=str(error))
        except trio.TooSlowError:
            link.problem = before if before and link.inventory is not None else f"no answer within {within_s:g} s"
        else:
            if before:
                log.info("a pool answers", pool=link.record.name)

    def _set_limits(
        self, hosts: list[Host], srs: list[Sr], host_records: Mapping[str, object], sr_records: Mapping[str, object]
    ) -> None:
        """Limits that have changed are set; what no pool has now is closed."""
        host_usage, sr_usage = self.claims.usage()
        known_hosts = {usage.limit.host_id: usage.limit for usage in host_usage}
        known_srs = {usage.limit.sr_id: usage.limit for usage in sr_usage}
        host_limits = {h.host_id: HostLimit(h.host_id, h.memory_limit_mib, h.vcpus_limit, h.is_open) for h in hosts}
        sr_limits = {sr.sr_id: SrLimit(sr.sr_id, sr.limit_bytes, sr.is_open) for sr in srs}
        for host_id, limit in known_hosts.items():
            if host_id not in host_limits and limit.is_open:
                host_limits[host_id] = HostLimit(host_id, limit.memory_mib, limit.vcpus, False)
        for sr_id, sr_limit in known_srs.items():
            if sr_id not in sr_limits and sr_limit.is_open:
                sr_limits[sr_id] = SrLimit(sr_id, sr_limit.size_bytes, False)
        changed_hosts = [limit for limit in host_limits.values() if known_hosts.get(limit.host_id) != limit]
        changed_srs = [limit for limit in sr_limits.values() if known_srs.get(limit.sr_id) != limit]
        if changed_hosts or changed_srs:
            self.claims.set_limits(changed_hosts, changed_srs)


def _renumber(
    connection: Connection,
    hosts: Mapping[str, HostRecord],
    srs: Mapping[str, SrRecord],
    numbers: Mapping[str, int],
) -> None:
    """The topology's numbers into the records."""
    for uuid, number in numbers.items():
        if uuid in hosts and hosts[uuid].device_id != number:
            store.change(connection, HostRecord, uuid, device_id=number)
        if uuid in srs and srs[uuid].device_id != number:
            store.change(connection, SrRecord, uuid, device_id=number)


def _register(connection: Connection, links: list[PoolLink]) -> tuple[dict[str, HostRecord], dict[str, SrRecord]]:
    """Give numbers to hosts and SRs that have none; -> all records by id."""
    hosts = {record.id: record for record in store.all_of(connection, HostRecord)}
    srs = {record.id: record for record in store.all_of(connection, SrRecord)}
    if not _news(links, hosts, srs):
        return hosts, srs
    # Two controllers that see the same new host: the second waits here, and then finds it registered.
    connection.execute(select(POOLS.c.id).with_for_update()).all()
    pools = {record.id for record in store.all_of(connection, PoolRecord)}
    hosts = {record.id: record for record in store.all_of(connection, HostRecord)}
    srs = {record.id: record for record in store.all_of(connection, SrRecord)}
    for link in links:
        if link.inventory is None or link.record.id not in pools:
            continue
        names = {host.uuid: host for host in link.inventory.hosts}
        for host in sorted(link.inventory.hosts, key=lambda host: host.name):
            if host.uuid not in hosts:
                number = _free(hosts, srs)
                node = host.address or host.name or host.uuid
                hosts[host.uuid] = HostRecord(host.uuid, link.record.id, number, host.name, node)
                store.add(connection, hosts[host.uuid])
        for sr in sorted(link.inventory.srs, key=lambda sr: sr.name):
            if sr.uuid not in srs and sr.type not in SYSTEM_SR_TYPES:
                home = names.get(min(sr.hosts, default="")) if not sr.shared else None
                node = home.address or home.name if home is not None else sr.uuid
                srs[sr.uuid] = SrRecord(sr.uuid, link.record.id, _free(hosts, srs), sr.name, node)
                store.add(connection, srs[sr.uuid])
    return hosts, srs


def _news(links: list[PoolLink], hosts: Mapping[str, object], srs: Mapping[str, object]) -> bool:
    return any(
        any(host.uuid not in hosts for host in link.inventory.hosts)
        or any(sr.uuid not in srs and sr.type not in SYSTEM_SR_TYPES for sr in link.inventory.srs)
        for link in links
        if link.inventory is not None
    )


def _free(hosts: Mapping[str, HostRecord], srs: Mapping[str, SrRecord]) -> int:
    taken = [record.device_id for record in hosts.values()] + [record.device_id for record in srs.values()]
    return next_device_id(taken, DEVICE_ID_FIRST)
