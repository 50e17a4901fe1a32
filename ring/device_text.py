"""Devices as operators type them: `r1z2-10.0.0.1:6200/sdb`, and searches for them: `z2-10.0.0.1`, `d74`, `/sdb_shelf 3`.

The words are swift-ring-builder's. A device to add is

    [r<region>]z<zone>-<ip>:<port>[R<replication ip>:<replication port>]/<name>[_<note>]

and a search is any part of `d<id>r<region>z<zone>-<ip>:<port>R<ip>:<port>/<name>_<text in the metadata>`. An IPv6
address stands in brackets; a host name may stand for an address, in a search only after `-`. What Swift calls meta is
the metadata entry `note` here, what it has for replication are the entries `replication_ip` and `replication_port`.

Invariants: a text is taken whole or refused with the text; addresses are compared in their shortest form.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace

from ring.topology import Device, Kind, Topology, TopologyError, check_weight

NOTE = "note"
REPLICATION_IP = "replication_ip"
REPLICATION_PORT = "replication_port"
REGION_DEFAULT = 1

_NUMBER = r"[0-9]{1,10}"
_ADDRESS = r"\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9][A-Za-z0-9.-]*"
_ADD = re.compile(
    rf"(?:r(?P<region>{_NUMBER}))?z(?P<zone>{_NUMBER})-(?P<node>{_ADDRESS}):(?P<port>{_NUMBER})"
    rf"(?:R(?P<replication_ip>{_ADDRESS}):(?P<replication_port>{_NUMBER}))?/(?P<name>[^_/\s]+)(?:_(?P<note>.*))?",
    re.DOTALL,
)
_IP = r"\[[0-9A-Fa-f:.%]+\]|[0-9]+(?:\.[0-9]+){3}"
_SEARCH = re.compile(
    rf"(?:d(?P<id>{_NUMBER}))?(?:r(?P<region>{_NUMBER}))?(?:z(?P<zone>{_NUMBER}))?"
    rf"(?:-(?P<host>{_ADDRESS})|(?P<node>{_IP}))?(?::(?P<port>{_NUMBER}))?"
    rf"(?:R(?P<replication_ip>{_ADDRESS})?(?::(?P<replication_port>{_NUMBER}))?)?(?:/(?P<name>[^_/]+))?(?:_(?P<note>.*))?",
    re.DOTALL,
)
_CHANGE = re.compile(
    rf"(?P<node>{_IP}|[A-Za-z0-9][A-Za-z0-9.-]*(?=:))?(?::(?P<port>{_NUMBER}))?"
    rf"(?:R(?P<replication_ip>{_ADDRESS})?(?::(?P<replication_port>{_NUMBER}))?)?(?:/(?P<name>[^_/\s]+))?(?:_(?P<note>.*))?",
    re.DOTALL,
)
_WEIGHT = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?|[-+]?(?:nan|inf)", re.ASCII)


class DeviceTextError(ValueError):
    """The caller's: a text that is no device, no search or no change. The message quotes it."""


@dataclass(frozen=True, slots=True)
class Search:
    """What devices are looked for; None matches everything. `note` matches any metadata that contains it."""

    id: int | None = None
    region: int | None = None
    zone: int | None = None
    node: str | None = None
    port: int | None = None
    name: str | None = None
    replication_ip: str | None = None
    replication_port: int | None = None
    weight: float | None = None
    note: str | None = None
    kind: Kind | None = None

    def matches(self, device: Device) -> bool:
        """Whether the device is one of those."""
        facts = (
            (self.id, device.id),
            (self.region, device.region),
            (self.zone, device.zone),
            (self.node, device.node),
            (self.port, device.port),
            (self.name, device.name),
            (self.replication_ip, device.meta.get(REPLICATION_IP, device.node)),
            (self.replication_port, int(device.meta.get(REPLICATION_PORT, device.port))),
            (self.weight, device.weight),
            (self.kind, device.kind),
        )
        if any(wanted is not None and wanted != fact for wanted, fact in facts):
            return False
        return self.note is None or any(self.note in value for value in device.meta.values())

    def find(self, topology: Topology) -> list[Device]:
        """The devices of a topology that match, in the order of their ids."""
        return [device for device in topology if self.matches(device)]


@dataclass(frozen=True, slots=True)
class InfoChange:
    """What set_info changes; None leaves a thing as it is."""

    node: str | None = None
    port: int | None = None
    name: str | None = None
    replication_ip: str | None = None
    replication_port: int | None = None
    note: str | None = None
    meta: tuple[tuple[str, str], ...] = ()

    def apply(self, device: Device) -> Device:
        """The device, changed. TopologyError if it can't be so."""
        meta = dict(device.meta)
        for key, value in (
            (REPLICATION_IP, self.replication_ip),
            (REPLICATION_PORT, self.replication_port),
            (NOTE, self.note),
            *self.meta,
        ):
            if value is not None:
                meta[key] = str(value)
            if value == "":
                del meta[key]
        return replace(
            device,
            node=device.node if self.node is None else self.node,
            port=device.port if self.port is None else self.port,
            name=device.name if self.name is None else self.name,
            meta=meta,
        )


def parse_device(text: str, weight: str, device_id: int, kind: Kind = "disk") -> Device:
    """The device of `r1z2-10.0.0.1:6200/sdb` and a weight. DeviceTextError quotes what can't be understood."""
    match = _ADD.fullmatch(text)
    if match is None:
        raise DeviceTextError(f"{text!r} is no device: write r1z2-10.0.0.1:6200/sdb")
    region = match["region"]
    try:
        return Device(
            id=device_id,
            region=REGION_DEFAULT if region is None else int(region),
            zone=int(match["zone"]),
            node=normal_address(match["node"]),
            port=int(match["port"]),
            name=match["name"],
            weight=parse_weight(weight),
            kind=kind,
            meta=make_meta(match["replication_ip"], match["replication_port"], match["note"]),
        )
    except TopologyError as error:
        raise DeviceTextError(f"{text!r} is no device: {error}") from error


def parse_search(text: str) -> Search:
    """The search of `z2-10.0.0.1` and the like. DeviceTextError quotes what can't be understood."""
    match = _SEARCH.fullmatch(text)
    if match is None or not text or text in ("-", "R"):
        raise DeviceTextError(f"{text!r} is no search: write d0, r1z2, z2-10.0.0.1:6200/sdb or a part of it")
    node = match["host"] or match["node"]
    return Search(
        id=_number(match["id"]),
        region=_number(match["region"]),
        zone=_number(match["zone"]),
        node=None if node is None else normal_address(node),
        port=_number(match["port"]),
        name=match["name"],
        replication_ip=None if match["replication_ip"] is None else normal_address(match["replication_ip"]),
        replication_port=_number(match["replication_port"]),
        note=None if match["note"] is None else match["note"].strip('"'),
    )


def parse_change(text: str) -> InfoChange:
    """The change of `10.0.0.2:6200/sdc_new shelf` and parts of it. DeviceTextError quotes what can't be understood."""
    match = _CHANGE.fullmatch(text)
    if match is None or not text:
        raise DeviceTextError(f"{text!r} is no change: write 10.0.0.1:6200R10.1.0.1:6200/sdb_note or a part of it")
    return InfoChange(
        node=None if match["node"] is None else normal_address(match["node"]),
        port=_number(match["port"]),
        name=match["name"],
        replication_ip=None if match["replication_ip"] is None else normal_address(match["replication_ip"]),
        replication_port=_number(match["replication_port"]),
        note=None if match["note"] is None else match["note"].strip('"'),
    )


def parse_weight(text: str) -> float:
    """The weight in this text. DeviceTextError if it is no number, negative, or not finite."""
    if not _WEIGHT.fullmatch(text):
        raise DeviceTextError(f"weight {text!r} is no number")
    try:
        return check_weight(float(text))
    except TopologyError as error:
        raise DeviceTextError(str(error)) from error


def make_meta(replication_ip: str | None, replication_port: str | int | None, note: str | None) -> dict[str, str]:
    """Metadata of what Swift has fields for."""
    meta: dict[str, str] = {}
    if replication_ip:
        meta[REPLICATION_IP] = normal_address(replication_ip)
    if replication_port:
        meta[REPLICATION_PORT] = str(replication_port)
    if note:
        meta[NOTE] = note.strip('"')
    return meta


def normal_address(text: str) -> str:
    """An address in its shortest form: IPv6 compressed and without brackets, host names in lower case."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return ipaddress.ip_address(bare).compressed
    except ValueError:
        if text.startswith("[") or re.fullmatch(r"[0-9.]+", bare) or ":" in bare:
            raise DeviceTextError(f"{text!r} is no IP address") from None
        return bare.lower().rstrip(".")


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
