"""Records as placement asks for them: what a server needs, new, as it is, or moving.

Pure. A server's own disk and the volumes attached to it are one request, so that they fit together or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from scheduler.claims.claim import Claim
from scheduler.errors import RequestError
from scheduler.placement.request import Disk, Flavor, Membership, Nearness, Policy, ServerRequest, VolumeRequest
from scheduler.placement.resources import Zone
from scheduler.records.types import GroupRecord, ServerRecord, VolumeRecord

SERVER_OVERHEAD_MIB: Final = 8
"""What Xen needs for a VM beside its memory: this, a MiB for each vCPU, and a hundredth of the memory for page tables. A
little more than XenServer's own rule, so that a claim is never less than what the host will say."""

_ZONE = re.compile(r"(?:r([0-9]{1,5}))?z([0-9]{1,5})")


def parse_zone(text: str) -> Zone | None:
    """`r1z2`, or `z2` for region 1; None for an empty text. RequestError."""
    if not text:
        return None
    match = _ZONE.fullmatch(text)
    if match is None:
        raise RequestError(f"{text[:40]!r} is no zone; a zone is written z2, or r1z2 with its region")
    return int(match[1] or 1), int(match[2])


def memory_claim_mib(memory_mib: int, vcpus: int) -> int:
    """What a server of that size takes of a host's memory."""
    return memory_mib + SERVER_OVERHEAD_MIB + vcpus + -(-memory_mib // 100)


def request_of(
    server: ServerRecord,
    volumes: Iterable[VolumeRecord],
    group: GroupRecord | None,
    *,
    excluded: Iterable[str] = (),
    hosts: Iterable[str] = (),
) -> ServerRequest:
    """A server that is to be built; on one of `hosts` where any are named."""
    own = Disk(server.disk_id, server.disk_bytes, image_id=server.image_id or None)
    there = [
        Disk(volume.id, volume.size_bytes, near=Nearness.HOST, volume=True, sr_id=volume.sr_id) for volume in volumes
    ]
    return _request(
        server, (own, *there), group, excluded=frozenset(excluded), hosts=frozenset(hosts), zone=parse_zone(server.zone)
    )


def move_request_of(
    server: ServerRecord,
    held: Claim,
    volumes: Mapping[str, tuple[VolumeRecord, str]],
    group: GroupRecord | None,
    *,
    to_hosts: Iterable[str] = (),
    to_zone: Zone | None = None,
    excluded: Iterable[str] = (),
    copy_disks: bool = True,
    here: Zone | None = None,
    any_zone: bool = False,
) -> ServerRequest:
    """A server that is somewhere and is to be elsewhere. `volumes`: those attached, each with the SR that it lies on.

    It stays in the zone that it was asked to be in, unless another host or zone is named, or `any_zone` is given, or it has
    left that zone already: `here` is where it is.
    """
    own = [
        Disk(share.disk_id, share.size_bytes, sr_id=share.sr_id, movable=copy_disks, image_id=server.image_id or None)
        for share in held.disks
    ]
    there = [
        Disk(volume.id, volume.size_bytes, near=Nearness.HOST, volume=True, sr_id=sr_id, movable=copy_disks)
        for volume, sr_id in volumes.values()
    ]
    away_from = {*excluded, *((held.host.host_id,) if held.host is not None else ())}
    return _request(
        server,
        (*own, *there),
        group,
        excluded=frozenset(away_from),
        hosts=frozenset(to_hosts),
        zone=to_zone or (None if any_zone or to_hosts or parse_zone(server.zone) != here else here),
    )


def volume_request_of(volume: VolumeRecord, host_id: str = "", excluded: Iterable[str] = ()) -> VolumeRequest:
    """A volume that is to be made, on none of the SRs `excluded`; on one that `host_id` reaches, where a host is named."""
    disk = Disk(
        volume.id,
        volume.size_bytes,
        volume_type=volume.type or None,
        near=Nearness.ANYWHERE,
        volume=True,
        image_id=volume.image_id or None,
    )
    return VolumeRequest(disk, volume.project, parse_zone(volume.zone), host_id or None, frozenset(excluded))


def _request(
    server: ServerRecord,
    disks: tuple[Disk, ...],
    group: GroupRecord | None,
    *,
    excluded: frozenset[str],
    hosts: frozenset[str] = frozenset(),
    zone: Zone | None = None,
) -> ServerRequest:
    options = server.options
    member = None
    if group is not None:
        member = Membership(group.id, Policy(group.policy), server.member_index)
    return ServerRequest(
        server.id,
        server.project,
        Flavor(server.flavor, memory_claim_mib(server.memory_mib, server.vcpus), server.vcpus),
        zone=zone,
        membership=member,
        same_host_as=tuple(options.get("same_host_as", ())),
        different_host_from=tuple(options.get("different_host_from", ())),
        required_traits=frozenset(options.get("required_traits", ())),
        forbidden_traits=frozenset(options.get("forbidden_traits", ())),
        required_tags=frozenset(options.get("required_tags", ())),
        disks=disks,
        image_id=server.image_id or None,
        host_ids=hosts,
        excluded_host_ids=excluded,
    )
