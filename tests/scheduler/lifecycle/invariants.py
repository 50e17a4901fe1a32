"""What must hold of a cloud in memory: at every moment, and when nothing is at work."""

from __future__ import annotations

from scheduler.claims.claim import Claim, Role
from scheduler.hypervisor import PowerState, VmFacts
from scheduler.records.types import (
    GroupRecord,
    ServerRecord,
    ServerState,
    SnapshotRecord,
    TaskRecord,
    TaskState,
    VolumeRecord,
    VolumeState,
)
from tests.scheduler.lifecycle.world import World


def check_always(world: World) -> None:
    """No host or SR is over its limit, anti-affinity holds, no server runs twice."""
    hosts, srs = world.claims.usage()
    for host in hosts:
        assert host.memory_mib <= host.limit.memory_mib, f"{host.limit.host_id} is over its memory"
        assert host.vcpus <= host.limit.vcpus, f"{host.limit.host_id} is over its vCPUs"
    for sr in srs:
        assert sr.size_bytes <= sr.limit.size_bytes, f"{sr.limit.sr_id} is over its size"
    groups: dict[str, dict[str, str]] = {}
    for claim in world.claims.all():
        if claim.membership is not None and claim.host is not None and claim.membership.policy.value == "anti-affinity":
            taken = groups.setdefault(claim.membership.group_id, {})
            other = taken.setdefault(claim.host.host_id, claim.owner)
            assert other == claim.owner, f"{other} and {claim.owner} share {claim.host.host_id}"
    running: dict[str, int] = {}
    for pool in world.pools.values():
        for vm in pool.vms.values():
            if vm.server_id and not vm.snapshot_id and vm.power is PowerState.RUNNING:
                running[vm.server_id] = running.get(vm.server_id, 0) + 1
    assert all(count == 1 for count in running.values()), f"running twice: {running}"


def check_settled(world: World) -> None:
    """Nothing is at work: every claim has an owner, every server a claim where its one VM is, every disk a record."""
    check_always(world)
    assert not [task for task in world.records(TaskRecord) if task.state is TaskState.OPEN]
    servers = {server.id: server for server in world.records(ServerRecord)}
    volumes = {volume.id: volume for volume in world.records(VolumeRecord)}
    claims = {claim.owner: claim for claim in world.claims.all()}
    assert len(claims) == len(list(world.claims.all())), "a move's target is left"
    for owner, claim in claims.items():
        assert claim.role is Role.HELD
        assert owner in servers or owner in volumes, f"{owner} holds a claim and is nobody"
    for server in servers.values():
        _check_server(world, server, claims.get(server.id))
    for volume in volumes.values():
        _check_volume(world, volume, claims.get(volume.id))
    _check_leftovers(world, servers, volumes)
    members: dict[str, list[str]] = {}
    policies = {group.id: group.policy for group in world.records(GroupRecord)}
    for server in servers.values():
        if policies.get(server.group_id) == "anti-affinity" and server.state is not ServerState.ERROR:
            members.setdefault(server.group_id, []).append(server.host_id)
    assert all(len(hosts) == len(set(hosts)) for hosts in members.values()), f"shared hosts: {members}"


def _vms_of(world: World, server_id: str) -> list[tuple[str, VmFacts]]:
    return [
        (pool.uuid, vm)
        for pool in world.pools.values()
        for vm in pool.vms.values()
        if vm.server_id == server_id and not vm.snapshot_id
    ]


def _check_server(world: World, server: ServerRecord, claim: Claim | None) -> None:
    vms = _vms_of(world, server.id)
    disks = [disk for pool in world.pools.values() for disk in pool.disks.values() if disk.disk_id == server.disk_id]
    if server.state is ServerState.ERROR:
        assert (vms, disks, claim) == ([], [], None), f"{server.name} failed and left {vms} {disks} {claim}"
        return
    assert len(vms) == 1, f"{server.name} is {server.state.value} and has {len(vms)} VMs"
    assert len(disks) == 1, f"{server.name} has {len(disks)} disks"
    pool, vm = vms[0]
    assert not vm.unfinished
    assert claim is not None, f"{server.name} has no claim"
    assert claim.host is not None
    assert (server.pool_id, server.host_id) == (pool, claim.host.host_id)
    assert vm.host in ("", claim.host.host_id), f"{server.name} runs on {vm.host}, claims {claim.host.host_id}"
    assert [share.sr_id for share in claim.disks] == [disks[0].sr]


def _check_volume(world: World, volume: VolumeRecord, claim: Claim | None) -> None:
    disks = [disk for pool in world.pools.values() for disk in pool.disks.values() if disk.disk_id == volume.id]
    if volume.state is VolumeState.ERROR:
        assert (disks, claim) == ([], None), f"{volume.name} failed and left {disks} {claim}"
        return
    assert len(disks) == 1, f"{volume.name} is {volume.state.value} and has {len(disks)} disks"
    assert claim is not None
    assert [share.sr_id for share in claim.disks] == [disks[0].sr] == [volume.sr_id]
    assert claim.disks[0].size_bytes >= disks[0].size_bytes >= volume.size_bytes
    holders = [
        vm.server_id
        for pool in world.pools.values()
        for vm in pool.vms.values()
        if not vm.snapshot_id and any(attached.disk_id == volume.id for attached in vm.disks)
    ]
    assert holders == ([volume.server_id] if volume.server_id else []), f"{volume.name}: {holders} {volume.server_id}"
    assert (volume.state is VolumeState.IN_USE) == bool(volume.server_id)


def _check_leftovers(world: World, servers: dict[str, ServerRecord], volumes: dict[str, VolumeRecord]) -> None:
    snapshots = {snapshot.id for snapshot in world.records(SnapshotRecord)}
    known = {server.disk_id for server in servers.values()} | set(volumes) | snapshots
    for pool in world.pools.values():
        for vm in pool.vms.values():
            if vm.server_id:
                assert vm.server_id in servers, f"VM {vm.uuid} of nobody in {pool.uuid}"
        in_snapshots = {disk.disk for vm in pool.vms.values() if vm.snapshot_id for disk in vm.disks}
        for disk in pool.disks.values():
            if disk.disk_id and disk.uuid not in in_snapshots:
                assert disk.disk_id in known, f"disk {disk.uuid} ({disk.disk_id}) of nobody in {pool.uuid}"
