"""Booking over claims in memory: what one scheduler is answered, call by call."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.booking import Booking
from scheduler.claims.claim import Role
from scheduler.errors import KeyReused, NoValidHost, NoValidSr
from scheduler.placement.request import Disk, ServerRequest, VolumeRequest
from tests.scheduler.placement.worlds import GIB, claims_of, flavor, host, inventory_of, sr

SERVER = ServerRequest("s", "p", flavor(4096, 1), disks=(Disk("root", 20 * GIB), Disk("v", 10 * GIB, volume=True)))
VOLUME = VolumeRequest(Disk("alone", 30 * GIB, volume=True), "p")


def booking_of(hosts, srs) -> Booking:
    """A scheduler over an empty cloud."""
    claims = claims_of(hosts, srs)
    return Booking(inventory_of(hosts, srs, claims), claims)


@pytest.fixture
def full() -> Booking:
    """A host and an SR that have room for nothing beside SERVER ("k") and VOLUME ("w")."""
    booking = booking_of([host(0, memory_mib=4096)], [sr(0, (0,), gib=60)])
    booking.book(SERVER, "k")
    booking.book_volume(VOLUME, "w")
    return booking


def test_a_repeated_request_that_fits_nowhere_else_is_answered(full):
    """Where the first call took the last room, the second one is told that place and changes nothing."""
    before = list(full.claims.all())
    again = full.book(SERVER, "k")
    assert (again.host_id, {disk.disk_id: disk.sr_id for disk in again.disks}) == ("h0", {"root": "sr0", "v": "sr0"})
    assert [disk.sr_id for disk in full.book_volume(VOLUME, "w").disks] == ["sr0"]
    with pytest.raises(NoValidHost):
        full.book(replace(SERVER, server_id="t", disks=()), "k2")
    with pytest.raises(NoValidSr):
        full.book_volume(replace(VOLUME, disk=replace(VOLUME.disk, disk_id="w")), "w2")
    assert list(full.claims.all()) == before


def test_a_repeated_request_is_answered_after_its_host_was_taken_away(full):
    """The first answer stands also where the inventory no longer has the host that it names."""
    gone = Booking(inventory_of([host(1, pcpus=0)], [sr(0, (1,), gib=60)], full.claims), full.claims)
    again = gone.book(SERVER, "k")
    assert again.host_id == "h0"
    assert [claim.host.host_id for claim in gone.claims.all() if claim.host] == ["h0"]


@pytest.mark.parametrize(
    "request_",
    [
        replace(SERVER, flavor=flavor(8192, 1)),
        replace(SERVER, server_id="t"),
        replace(SERVER, project="q"),
        replace(SERVER, disks=SERVER.disks[:1]),
        replace(SERVER, disks=(*SERVER.disks, Disk("more", GIB))),
        replace(SERVER, disks=(Disk("root", 21 * GIB), SERVER.disks[1])),
    ],
)
def test_a_used_key_is_refused_to_a_server_that_fits_nowhere(full, request_):
    """A key that was used for something else is refused, also where no host would take what is asked now."""
    before = list(full.claims.all())
    for key in ("k", "w"):
        with pytest.raises(KeyReused):
            full.book(request_, key)
    with pytest.raises(KeyReused):
        full.book(SERVER, "k", Role.TARGET)
    assert list(full.claims.all()) == before


@pytest.mark.parametrize(
    "request_",
    [
        replace(VOLUME, disk=replace(VOLUME.disk, size_bytes=40 * GIB)),
        replace(VOLUME, disk=replace(VOLUME.disk, disk_id="v")),
        replace(VOLUME, project="q"),
    ],
)
def test_a_used_key_is_refused_to_a_volume_that_fits_nowhere(full, request_):
    """The same for volumes."""
    before = list(full.claims.all())
    for key in ("k", "w"):
        with pytest.raises(KeyReused):
            full.book_volume(request_, key)
    assert list(full.claims.all()) == before


def test_a_repeated_move_is_answered_when_nothing_else_is_free():
    """A move whose target took the last room answers the same, before it is finished and after."""
    hosts = [host(0, memory_mib=4096), host(1, memory_mib=4096)]
    booking = booking_of(hosts, [sr(0, (0,), gib=40), sr(1, (1,), gib=40), sr(2, (0, 1), gib=40)])
    disks = (Disk("root", 30 * GIB), Disk("shared", 35 * GIB))
    made = booking.book(replace(ServerRequest("s", "p", flavor(4096, 1)), host_ids=frozenset({"h0"}), disks=disks), "k")
    assert {disk.disk_id: disk.sr_id for disk in made.disks} in (
        {"root": "sr0", "shared": "sr2"},
        {"root": "sr2", "shared": "sr0"},
    )
    where = {disk.disk_id: disk.sr_id for disk in made.disks}
    there = tuple(replace(disk, sr_id=where[disk.disk_id], movable=True) for disk in disks)
    move = ServerRequest("s", "p", flavor(4096, 1), excluded_host_ids=frozenset({"h0"}), disks=there)
    first = booking.book(move, "m", Role.TARGET)
    assert booking.book(move, "m", Role.TARGET) == replace(first, tries=0)
    with pytest.raises(KeyReused):
        booking.book(replace(move, flavor=flavor(2048, 1)), "m", Role.TARGET)
    booking.inventory.apply(booking.claims.finish_move(["s"]))
    again = booking.book(replace(move, excluded_host_ids=frozenset({"h0", "h1"})), "m", Role.TARGET)
    assert (again.host_id, again.disks) == ("h1", first.disks)
