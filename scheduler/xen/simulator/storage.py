"""What SRs promise and what VDIs occupy.

Thick SRs (LVM) give a VDI all its bytes at once; thin ones (files) what is written. A thick SR refuses what does not fit;
a thin one promises more than it has, and refuses when it is physically full. `virtual_allocation` and
`physical_utilisation` follow every change; `rescan` computes them anew from the disks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.jobs import Steps, Work

if TYPE_CHECKING:
    from scheduler.xen.simulator.pool import Pool

THICK: Final = frozenset({"lvm", "lvmoiscsi", "lvmohba"})
GRAIN_BYTES: Final = 2 << 20
"""Sizes are rounded up to whole blocks of a VHD."""
SIZE_MAX_BYTES: Final = 2040 << 30
"""What a VHD can hold."""
_COPY_PAUSE: Final = Work(0.0005)
_COPY_SLICE_BYTES: Final = 32 << 20


def key_of(vdi: Row) -> str:
    """The name of a VDI's bytes in the store of disks."""
    return vdi.ref.removeprefix("OpaqueRef:")


def is_thick(sr: Row) -> bool:
    """Whether VDIs take all their bytes at once."""
    return sr["type"] in THICK


def room_bytes(sr: Row) -> int:
    """What is physically left."""
    return max(0, int(sr["physical_size"]) - int(sr["physical_utilisation"]))


def assert_room(sr: Row, size_bytes: int, used_bytes: int = 0) -> None:
    """Raises Failure SR_FULL when an SR cannot take a disk of a size, of which so much is used at once."""
    physical = size_bytes if is_thick(sr) else used_bytes
    if physical > room_bytes(sr) or (not is_thick(sr) and (room_bytes(sr) == 0 or size_bytes > sr["physical_size"])):
        raise Failure("SR_FULL", str(size_bytes), str(room_bytes(sr)))


def round_up(size_bytes: int) -> int:
    """A size that an SR gives for one that was asked for. Raises Failure INVALID_VALUE for one that none can give."""
    if size_bytes <= 0 or size_bytes > SIZE_MAX_BYTES:
        raise Failure("INVALID_VALUE", "virtual_size", str(size_bytes))
    return -(-size_bytes // GRAIN_BYTES) * GRAIN_BYTES


def make_vdi(pool: Pool, sr: Row, size_bytes: int, *, used_bytes: int = 0, **values: Any) -> Row:
    """A new VDI, empty. Raises Failure SR_FULL or INVALID_VALUE.

    `used_bytes` is what will be written to it at once, for the check of room.
    """
    size_bytes = round_up(size_bytes)
    assert_room(sr, size_bytes, used_bytes)
    values.setdefault("location", values.setdefault("uuid", pool.new_uuid()))
    vdi = pool.database.add(
        "VDI",
        **{
            "type": "user",
            "managed": True,
            **values,
            "SR": sr.ref,
            "virtual_size": size_bytes,
            "physical_utilisation": size_bytes if is_thick(sr) else 0,
        },
    )
    pool.disks.create(key_of(vdi), size_bytes)
    adjust(pool, sr, size_bytes, int(vdi["physical_utilisation"]))
    return vdi


def drop_vdi(pool: Pool, vdi: Row) -> None:
    """Remove a VDI, its bytes and the VBDs that named it; one that is gone is gone."""
    if pool.database.find("VDI", vdi.ref) is not vdi:
        return
    sr = pool.database.find("SR", vdi["SR"])
    for vbd in pool.database.all("VBD", vdi["VBDs"]):
        if vbd["type"] == "CD":
            pool.database.set(vbd, VDI=pool.database.null, empty=True, currently_attached=False)
        else:
            pool.database.remove(vbd)
    if sr is not None:
        adjust(pool, sr, -int(vdi["virtual_size"]), -int(vdi["physical_utilisation"]))
    pool.database.remove(vdi)
    pool.disks.remove(key_of(vdi))


def adjust(pool: Pool, sr: Row, virtual_bytes: int, physical_bytes: int) -> None:
    """Add to what an SR has promised and what it holds."""
    pool.database.set(
        sr,
        virtual_allocation=max(0, sr["virtual_allocation"] + virtual_bytes),
        physical_utilisation=max(0, sr["physical_utilisation"] + physical_bytes),
    )


def measure(pool: Pool, vdi: Row) -> None:
    """Note what a VDI occupies after it was written to."""
    sr = pool.database.get("SR", vdi["SR"])
    if is_thick(sr) or vdi["type"] == "suspend":
        return
    before, after = int(vdi["physical_utilisation"]), pool.disks.used_bytes(key_of(vdi))
    pool.database.set(vdi, physical_utilisation=after)
    adjust(pool, sr, 0, after - before)


def set_size(pool: Pool, vdi: Row, size_bytes: int) -> None:
    """Make a VDI larger. Raises Failure VDI_TOO_SMALL, SR_FULL or INVALID_VALUE."""
    size_bytes = round_up(size_bytes)
    before = int(vdi["virtual_size"])
    if size_bytes < before:
        raise Failure("VDI_TOO_SMALL", vdi.ref, str(before))
    sr = pool.database.get("SR", vdi["SR"])
    if is_thick(sr):
        assert_room(sr, size_bytes - before)
    elif size_bytes > sr["physical_size"]:
        raise Failure("SR_FULL", str(size_bytes), str(room_bytes(sr)))
    pool.disks.resize(key_of(vdi), size_bytes)
    grown = size_bytes - before
    physical = grown if is_thick(sr) else 0
    pool.database.set(vdi, virtual_size=size_bytes, physical_utilisation=vdi["physical_utilisation"] + physical)
    adjust(pool, sr, grown, physical)


def copy_bytes(source_pool: Pool, source: Row, target_pool: Pool, target: Row) -> Steps:
    """Copy what a VDI holds into another, leaving the loop to others now and then."""
    since_pause = 0
    for copied in source_pool.disks.copying(key_of(source), key_of(target)):
        since_pause += copied
        if since_pause >= _COPY_SLICE_BYTES:
            since_pause = 0
            yield _COPY_PAUSE
    measure(target_pool, target)


def rescan(pool: Pool, sr: Row) -> None:
    """Compute an SR's figures from its disks."""
    virtual = physical = 0
    for vdi in pool.database.all("VDI", sr["VDIs"]):
        if not is_thick(sr) and vdi["type"] != "suspend":
            pool.database.set(vdi, physical_utilisation=pool.disks.used_bytes(key_of(vdi)))
        virtual += int(vdi["virtual_size"])
        physical += int(vdi["physical_utilisation"])
    pool.database.set(sr, virtual_allocation=virtual, physical_utilisation=physical)


def hosts_of(pool: Pool, sr: Row) -> list[Row]:
    """The hosts that reach an SR."""
    plugged = [pbd for pbd in pool.database.all("PBD", sr["PBDs"]) if pbd["currently_attached"]]
    return pool.database.all("host", [pbd["host"] for pbd in plugged])


def worker_of(pool: Pool, sr: Row) -> Row:
    """A host that does the work on an SR. Raises Failure SR_HAS_NO_PBDS, HOST_OFFLINE or CANNOT_CONTACT_HOST."""
    hosts = hosts_of(pool, sr)
    if not hosts:
        raise Failure("SR_HAS_NO_PBDS", sr.ref)
    for host in hosts:
        if host.ref not in pool.dead:
            return host
    pool.reach(hosts[0])
    return hosts[0]
