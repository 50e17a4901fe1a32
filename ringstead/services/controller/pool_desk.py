"""What a controller can be asked about where things run: pools, hosts, zones, quotas, and the reconciler.

Pools are connected to before they are recorded: a wrong password, a certificate that nobody vouches for, a host that does
not answer or speaks nonsense is an answer to `pool add`, and nothing else notices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

import trio

from ringstead.processes.control import Answer, Operation
from ringstead.services.controller.desk import Request, asked_zone, guarded, project_of
from ringstead.services.controller.views import plain, plan_view, pool_view, server_view, volume_view
from scheduler.claims.claim import Quota, Role
from scheduler.errors import RequestError
from scheduler.hypervisor import Hypervisor, HypervisorError, Unreachable
from scheduler.lifecycle import level_actions, mend, tasks
from scheduler.lifecycle.controller import Controller
from scheduler.lifecycle.operations import Busy, Desk, InUse, check_name
from scheduler.lifecycle.reconcile import Difference
from scheduler.lifecycle.requests import parse_zone
from scheduler.placement.resources import OVERCOMMIT_MAX, Zone, zone_name
from scheduler.records import store
from scheduler.records.secrets import PoolSecrets
from scheduler.records.types import (
    GroupRecord,
    HostRecord,
    PoolRecord,
    ServerRecord,
    SrRecord,
    VolumeRecord,
)

PROBE_TIMEOUT_S: Final = 25.0
VCPU_RATIO_MIN: Final = 0.1
QUOTA_FIELDS: Final = ("servers", "vcpus", "memory_mib", "volumes", "disk_bytes")
Connect = Callable[[PoolRecord, str], Hypervisor]


class CloudDesk:
    """Operations on pools, hosts, zones and what is claimed of them."""

    def __init__(self, controller: Controller, secrets: PoolSecrets, connect: Connect) -> None:
        self._controller = controller
        self._secrets = secrets
        self._connect = connect

    def operations(self) -> dict[str, Operation]:
        """By name."""
        named = {
            "pool.add": self.pool_add,
            "pool.list": self.pool_list,
            "pool.remove": self.pool_remove,
            "host.list": self.host_list,
            "host.disable": self.host_disable,
            "host.enable": self.host_enable,
            "host.set": self.host_set,
            "host.evacuate": self.host_evacuate,
            "host.rebalance": self.host_rebalance,
            "az.list": self.az_list,
            "zone.show": self.zone_show,
            "zone.drain": self.zone_drain,
            "zone.enable": self.zone_enable,
            "reconcile": self.reconcile,
            "quota.show": self.quota_show,
            "quota.set": self.quota_set,
            "statistics": self.statistics,
        }
        return {name: guarded(operation) for name, operation in named.items()}

    # --------------------------------------------------------------------------------------------------------------- pools

    async def pool_add(self, request: Request) -> Answer:
        """Connect to a pool, look at it, and only then record it."""
        zone = parse_zone(str(request.get("zone") or ""))
        if zone is None:
            raise RequestError("a pool is in an availability zone: --zone z2")
        record = PoolRecord(
            self._controller.tools.new_id(),
            check_name("pool", str(request["name"])),
            str(request["url"]),
            check_name("user", str(request["user"])),
            str(request.get("verify") or "system"),
            *zone,
            self._controller.tools.now_s(),
        )
        await self.add_pool(record, str(request["password"]))
        return {"pool": pool_view(record, self._controller.tools.pools.links.get(record.id))}

    async def add_pool(self, record: PoolRecord, password: str) -> None:
        """The same, from a record. Raises SchedulerError, HypervisorError."""
        records = await self._controller.read(lambda c: store.all_of(c, PoolRecord))
        if any(known.name == record.name for known in records):
            raise store.NameTaken(f"there is a pool {record.name!r} already")
        uuid = await self._probe(record, password)
        for link in self._controller.tools.pools.links.values():
            if link.inventory is not None and link.inventory.pool == uuid:
                raise InUse(f"that is pool {link.record.name}, which is there already")

        def work(desk: Desk) -> None:
            store.add(desk.connection, record)
            self._secrets.seal(desk.connection, record.id, password)

        await self._controller.request(work)
        await self._controller.sync_pools()
        await self._controller.refresher.look()

    async def _probe(self, record: PoolRecord, password: str) -> str:
        try:
            hypervisor = self._connect(record, password)
        except ValueError as error:
            raise RequestError(str(error)) from error
        try:
            with trio.fail_after(PROBE_TIMEOUT_S):
                return (await hypervisor.inventory(fresh=True)).pool
        except trio.TooSlowError:
            raise Unreachable(f"{record.url} does not answer within {PROBE_TIMEOUT_S:g} s") from None
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await hypervisor.close()

    async def pool_list(self, request: Request) -> Answer:
        """All."""
        links = self._controller.tools.pools.links
        records = await self._controller.read(lambda c: store.all_of(c, PoolRecord))
        return {"pools": [pool_view(record, links.get(record.id)) for record in records]}

    async def pool_remove(self, request: Request) -> Answer:
        """One that holds nothing of ours. What runs there is not touched."""

        def work(desk: Desk) -> tuple[PoolRecord, list[str]]:
            pool = self._removable(request["name"])(desk)
            resources = _resources_of(desk.connection, pool.id)
            for resource in resources:
                store.remove(desk.connection, HostRecord, resource)
                store.remove(desk.connection, SrRecord, resource)
            store.remove(desk.connection, PoolRecord, pool.id)
            self._secrets.forget(desk.connection, pool.id)
            return pool, resources

        pool = await self._controller.request(self._removable(request["name"]))
        claims = await self._controller.tools.database.block(lambda: list(self._controller.tools.claims.all()))
        places = set(await self._controller.read(lambda c: _resources_of(c, pool.id)))
        if any(claim.host is not None and claim.host.host_id in places for claim in claims):
            raise InUse(f"pool {pool.name} has claims on it; `ringstead reconcile` says whose")
        pool, resources = await self._controller.request(work)
        await self._controller.unlink(pool.id)
        await self._controller.tools.database.block(lambda: self._controller.tools.claims.remove(resources))
        await self._controller.refresher.settle()
        return {"pool": pool_view(pool, None)}

    def _removable(self, name: str) -> Callable[[Desk], PoolRecord]:
        """The pool of that name, if nothing of ours is in it. InUse."""

        def work(desk: Desk) -> PoolRecord:
            pool = store.named(desk.connection, PoolRecord, name, lock=True)
            servers = store.count_of(desk.connection, ServerRecord, pool_id=pool.id)
            volumes = store.count_of(desk.connection, VolumeRecord, pool_id=pool.id)
            if servers or volumes:
                raise InUse(f"pool {pool.name} has {servers} servers and {volumes} volumes; drain or delete them first")
            return pool

        return work

    # --------------------------------------------------------------------------------------------------------------- hosts

    async def host_list(self, request: Request) -> Answer:
        """All hosts, or those in a zone, with what is claimed of each."""
        controller = self._controller
        zone = await controller.read(lambda connection: asked_zone(connection, request))
        usage, _ = await controller.tools.database.block(controller.tools.claims.usage)
        used = {each.limit.host_id: each for each in usage}
        records = await controller.read(lambda c: {host.id: host for host in store.all_of(c, HostRecord)})
        servers = await controller.read(lambda c: store.all_of(c, ServerRecord))
        count: dict[str, int] = {}
        for server in servers:
            count[server.host_id] = count.get(server.host_id, 0) + 1
        views = []
        for host in controller.chooser.hosts():
            record, taken = records.get(host.host_id), used.get(host.host_id)
            link = controller.tools.pools.links.get(host.pool_id)
            if record is None or link is None or zone not in ("", zone_name(host.zone)):
                continue
            state = (
                "pool down"
                if link.problem
                else "dead"
                if not host.live
                else "maintenance"
                if host.maintenance
                else "disabled"
                if not host.enabled
                else "up"
            )
            views.append(
                {
                    "id": host.host_id,
                    "name": host.name,
                    "pool": link.record.name,
                    "zone": zone_name(host.zone),
                    "node": record.node,
                    "device_id": record.device_id,
                    "state": state,
                    "servers": count.get(host.host_id, 0),
                    "memory_mib": taken.memory_mib if taken else 0,
                    "memory_limit_mib": host.memory_limit_mib,
                    "vcpus": taken.vcpus if taken else 0,
                    "vcpu_limit": host.vcpus_limit,
                    "tags": sorted(host.tags),
                }
            )
        return {"hosts": sorted(views, key=lambda view: (view["zone"], view["pool"], view["name"]))}

    async def host_disable(self, request: Request) -> Answer:
        """Nothing new comes to it; what runs there stays."""
        return await self._set_host(request["name"], enabled=False)

    async def host_enable(self, request: Request) -> Answer:
        """It takes servers again. If it is being emptied, that is called off; moves that have begun go on."""
        return await self._set_host(request["name"], enabled=True)

    async def host_set(self, request: Request) -> Answer:
        """Give it a ratio of vCPUs to processors of its own, or with 0 that of the settings. What runs there stays."""
        ratio = float(request["vcpu_ratio"])
        if ratio and not VCPU_RATIO_MIN <= ratio <= OVERCOMMIT_MAX:
            raise RequestError(f"a vCPU ratio of {ratio:g} is outside {VCPU_RATIO_MIN:g}..{OVERCOMMIT_MAX:g}")

        def work(desk: Desk) -> HostRecord:
            host = store.named(desk.connection, HostRecord, request["name"], lock=True)
            store.change(desk.connection, HostRecord, host.id, vcpu_ratio=ratio)
            return replace(host, vcpu_ratio=ratio)

        host = await self._controller.request(work)
        await self._controller.refresher.settle()
        return {"host": plain(host)}

    async def _set_host(self, name: str, *, enabled: bool) -> Answer:
        def work(desk: Desk) -> HostRecord:
            host = store.named(desk.connection, HostRecord, name, lock=True)
            changed = replace(host, enabled=enabled, maintenance=host.maintenance and not enabled)
            if enabled:
                tasks.cancel_open(desk.connection, host.id)
            store.change(desk.connection, HostRecord, host.id, enabled=changed.enabled, maintenance=changed.maintenance)
            return changed

        host = await self._controller.request(work)
        warning = ""
        try:
            await self._controller.tools.pools.hypervisor(host.pool_id).set_host_enabled(host.id, enabled)
        except HypervisorError as error:
            warning = f"recorded here, but its pool was not told: {error}"
        await self._controller.refresher.look()
        return {"host": plain(host), "warning": warning}

    async def host_evacuate(self, request: Request) -> Answer:
        """Empty it: servers of a live host move, those of a dead one are started elsewhere."""
        hosts = [await self._controller.read(lambda c: store.named(c, HostRecord, request["name"]))]
        return await self._drain(hosts[0].id, hosts, any_zone=False)

    async def _drain(self, subject: str, hosts: list[HostRecord], *, any_zone: bool) -> Answer:
        def work(desk: Desk) -> int:
            if tasks.open_task(desk.connection, subject) is not None:
                raise Busy("it is being emptied already")
            for host in hosts:
                store.change(desk.connection, HostRecord, host.id, maintenance=True)
            data = {"hosts": [host.id for host in hosts], "any_zone": any_zone}
            return desk.submit("drain", subject, project_of({}), **data).id

        await self._controller.refresher.look(fresh=True)
        task = await self._controller.request(work)
        await self._controller.refresher.settle()
        return {"task": task, "hosts": [host.name for host in hosts]}

    async def host_rebalance(self, request: Request) -> Answer:
        """Level the load of all hosts, or of those of a zone among themselves. With `dry_run` the plan alone."""
        zone = str(request.get("zone") or "")
        records = await self._controller.read(lambda c: store.all_of(c, HostRecord))
        hosts = await self._hosts_of(await self._zone(zone)) if zone else records
        ids = [host.id for host in hosts]
        await self._controller.refresher.look(fresh=True)
        plan = await level_actions.plan_moves(self._controller.tools, ids)
        names = {host.id: host.name for host in records}

        def work(desk: Desk) -> Answer:
            moves = plan_view(desk.connection, plan, names)
            if request.get("dry_run") or not plan.moves:
                return {**moves, "task": None}
            if tasks.open_task(desk.connection, "level") is not None:
                raise Busy("load is being levelled already; `ringstead task list` shows it")
            return {**moves, "task": desk.submit("level", "level", project_of({}), hosts=ids).id}

        return await self._controller.request(work)

    # --------------------------------------------------------------------------------------------------------------- zones

    async def az_list(self, request: Request) -> Answer:
        """Availability zones: their pools, hosts, and room."""
        hosts = (await self.host_list({}))["hosts"]
        pools = (await self.pool_list({}))["pools"]
        zones: dict[str, dict[str, Any]] = {}
        for pool in pools:
            zone = zones.setdefault(pool["zone"], _empty_zone(pool["zone"]))
            zone["pools"].append(pool["name"])
        for host in hosts:
            zone = zones[host["zone"]]
            zone["hosts"] += 1
            zone["hosts_up"] += host["state"] == "up"
            for key in ("servers", "memory_mib", "memory_limit_mib", "vcpus", "vcpu_limit"):
                zone[key] += host[key]
        return {"zones": [zones[name] for name in sorted(zones)]}

    async def zone_show(self, request: Request) -> Answer:
        """What of compute and volumes is in a zone, and what would be left without it."""
        name = await self._zone(str(request["name"]))
        hosts = (await self.host_list({}))["hosts"]

        def work(connection: Any) -> Answer:
            servers = [server_view(connection, server) for server in store.all_of(connection, ServerRecord)]
            volumes = [volume_view(connection, volume) for volume in store.all_of(connection, VolumeRecord)]
            groups = store.all_of(connection, GroupRecord)
            return {"servers": servers, "volumes": volumes, "groups": [plain(group) for group in groups]}

        found = await self._controller.read(work)
        inside = [server for server in found["servers"] if server["zone"] == name]
        return {
            "zone": name,
            "hosts": [host for host in hosts if host["zone"] == name],
            "servers": inside,
            "volumes": [volume for volume in found["volumes"] if volume["zone"] == name],
            "groups": _groups_without(found["groups"], found["servers"], name),
            "room": _room_without(hosts, inside, name),
        }

    async def zone_drain(self, request: Request) -> Answer:
        """Empty all hosts of a zone; servers that were asked to be there leave it, too."""
        name = await self._zone(str(request["name"]))
        return await self._drain(f"zone:{name}", await self._hosts_of(name), any_zone=True)

    async def zone_enable(self, request: Request) -> Answer:
        """Its hosts take servers again. If it is being emptied, that is called off; moves that have begun go on."""
        name = await self._zone(str(request["name"]))
        await self._controller.request(lambda desk: tasks.cancel_open(desk.connection, f"zone:{name}"))
        hosts = await self._hosts_of(name)
        for host in hosts:
            await self._set_host(host.id, enabled=True)
        return {"hosts": [host.name for host in hosts]}

    async def _zone(self, text: str) -> str:
        zone = await self._controller.read(lambda connection: asked_zone(connection, {"zone": text}))
        if not zone:
            raise RequestError("name an availability zone: z2, or r1z2 with its region")
        return zone

    async def _hosts_of(self, zone: str) -> list[HostRecord]:
        def work(connection: Any) -> list[HostRecord]:
            pools = [p for p in store.all_of(connection, PoolRecord) if zone_name((p.region, p.zone)) == zone]
            return [host for pool in pools for host in store.all_of(connection, HostRecord, pool_id=pool.id)]

        return await self._controller.read(work)

    # --------------------------------------------------------------------------------------------- reconciler and quotas

    async def reconcile(self, request: Request) -> Answer:
        """What does not fit; with `fix`, mended as far as can be."""
        found = await mend.compare(self._controller.tools)
        silent = [link.record.name for link in self._controller.tools.pools.links.values() if link.problem]
        results: Mapping[Difference, str] = {}
        if request.get("fix"):
            results = dict(await mend.mend(self._controller.tools, found))
        rows = [
            {
                "kind": difference.kind.value,
                "subject": difference.subject,
                "pool": self._pool_name(difference.pool),
                "text": difference.text,
                "remedy": difference.remedy.value,
                "mended": difference in results and not results[difference],
                "obstacle": results.get(difference, ""),
            }
            for difference in found
        ]
        return {"differences": rows, "silent_pools": silent}

    def _pool_name(self, pool_id: str) -> str:
        link = self._controller.tools.pools.links.get(pool_id)
        return link.record.name if link is not None else pool_id

    async def quota_show(self, request: Request) -> Answer:
        """What a project may hold and what it does hold."""
        project = check_name("project", project_of(request))
        claims = self._controller.tools.claims
        quota, usage = await self._controller.tools.database.block(lambda: claims.quota(project))
        return {"project": project, "quota": asdict(quota), "usage": asdict(usage)}

    async def quota_set(self, request: Request) -> Answer:
        """Set what is named; the rest stays as it is. -1 is no limit."""
        project = check_name("project", project_of(request))
        claims = self._controller.tools.claims
        quota, _ = await self._controller.tools.database.block(lambda: claims.quota(project))
        changes: dict[str, int | None] = {}
        for field in QUOTA_FIELDS:
            value = request.get(field)
            if value is not None:
                if int(value) < -1:
                    raise RequestError(f"{field} {value}: a quota is a number, or -1 for none")
                changes[field] = None if int(value) == -1 else int(value)
        quota = replace(quota, **changes) if changes else quota
        await self._controller.tools.database.block(lambda: claims.set_quota(project, Quota(**asdict(quota))))
        return await self.quota_show(request)

    async def statistics(self, request: Request) -> Answer:
        """For `ringstead status`."""
        statistics = self._controller.executor.statistics()
        pools = self._controller.tools.pools.links.values()
        claims = await self._controller.tools.database.block(lambda: list(self._controller.tools.claims.all()))
        return {
            **asdict(statistics),
            "servers": sum(1 for claim in claims if claim.host is not None and claim.role is Role.HELD),
            "pools": len(pools),
            "pools_down": sum(1 for link in pools if link.problem),
            "open": await self._controller.read(_open_count),
        }


def _resources_of(connection: Any, pool_id: str) -> list[str]:
    """Ids of the hosts and SRs of a pool."""
    hosts = store.all_of(connection, HostRecord, pool_id=pool_id)
    return [host.id for host in hosts] + [sr.id for sr in store.all_of(connection, SrRecord, pool_id=pool_id)]


def _open_count(connection: Any) -> int:
    from scheduler.lifecycle.operations import open_task_count

    return open_task_count(connection)


def _empty_zone(name: str) -> dict[str, Any]:
    counts = ("hosts", "hosts_up", "servers", "memory_mib", "memory_limit_mib", "vcpus", "vcpu_limit")
    return {"zone": name, "pools": [], **dict.fromkeys(counts, 0)}


def _groups_without(groups: list[dict[str, Any]], servers: list[dict[str, Any]], zone: str) -> list[dict[str, Any]]:
    """Of each server group with members in the zone: how many are there, and whether a majority is left without."""
    found = []
    for group in groups:
        members = [server for server in servers if server["group_id"] == group["id"] and server["state"] == "active"]
        inside = [server for server in members if server["zone"] == zone]
        if inside:
            left = len(members) - len(inside)
            found.append(
                {
                    "name": group["name"],
                    "policy": group["policy"],
                    "members": len(members),
                    "in_zone": len(inside),
                    "left": left,
                    "majority": left >= len(members) // 2 + 1,
                }
            )
    return found


def _room_without(hosts: list[dict[str, Any]], inside: list[dict[str, Any]], zone: str) -> dict[str, Any]:
    """What the zone's servers need, and what the hosts elsewhere have free."""
    others = [host for host in hosts if host["zone"] != zone and host["state"] == "up"]
    here = [host for host in hosts if host["zone"] == zone]
    needed_mib, needed_vcpus = sum(h["memory_mib"] for h in here), sum(h["vcpus"] for h in here)
    free_mib = sum(max(0, host["memory_limit_mib"] - host["memory_mib"]) for host in others)
    free_vcpus = sum(max(0, host["vcpu_limit"] - host["vcpus"]) for host in others)
    return {
        "servers": len(inside),
        "needed_memory_mib": needed_mib,
        "needed_vcpus": needed_vcpus,
        "free_memory_mib": free_mib,
        "free_vcpus": free_vcpus,
        "enough": free_mib >= needed_mib and free_vcpus >= needed_vcpus,
    }


def zone_of(record: PoolRecord) -> Zone:
    """The zone that a pool is in."""
    return (record.region, record.zone)
