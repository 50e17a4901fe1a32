"""CORS: which web pages may use a container from a browser.

The container's metadata says it: `X-Container-Meta-Access-Control-Allow-Origin` (a list of origins, or *), `-Max-Age`,
`-Expose-Headers`, `-Allow-Headers` is granted as asked. A preflight (OPTIONS with Origin) is answered from it without any
credentials, as browsers send it; any other request with an Origin that fits has the headers added to its answer.
"""

from __future__ import annotations

from proxy.http.message import HeaderList, Response
from proxy.model import Metadata, NoSuchAccount, NoSuchContainer, Unavailable
from proxy.swift.call import Service
from proxy.swift.errors import SwiftError
from proxy.swift.metadata import META, header_value, names
from proxy.swift.paths import Target

_ORIGINS = f"{META}access-control-allow-origin"
_MAX_AGE = f"{META}access-control-max-age"
_EXPOSE = f"{META}access-control-expose-headers"
_ALWAYS_EXPOSED = (b"etag", b"x-timestamp", b"x-trans-id", b"x-openstack-request-id", b"last-modified", b"content-type")


async def preflight(service: Service, target: Target, headers: dict[bytes, bytes], allow: bytes) -> Response:
    """OPTIONS: 200 with the methods; for a page's preflight 200 or 401, as the container says."""
    origin = headers.get(b"origin")
    if origin is None:
        return Response(200, [(b"Allow", allow)])
    metadata = await _metadata(service, target)
    wanted = headers.get(b"access-control-request-method", b"")
    if not _allowed(metadata, origin) or wanted not in allow.split(b", "):
        raise SwiftError(401, headers=((b"Allow", allow),))
    answer: HeaderList = [
        (b"Allow", allow),
        (b"Access-Control-Allow-Origin", _granted_origin(metadata, origin)),
        (b"Access-Control-Allow-Methods", allow),
        (b"Vary", b"Origin, Access-Control-Request-Headers"),
    ]
    if headers.get(b"access-control-request-headers"):
        answer.append((b"Access-Control-Allow-Headers", headers[b"access-control-request-headers"]))
    if metadata.get(_MAX_AGE):
        answer.append((b"Access-Control-Max-Age", header_value(metadata[_MAX_AGE])))
    return Response(200, answer)


async def expose(service: Service, target: Target, origin: bytes, headers: HeaderList) -> None:
    """Add what lets the page at `origin` read this answer, if the container allows it."""
    try:
        metadata = await _metadata(service, target)
    except Unavailable:
        return
    if not _allowed(metadata, origin):
        return
    exposed = {*_ALWAYS_EXPOSED, *(name.lower() for name in names(headers))}
    exposed.update(header_value(name).lower() for name in metadata.get(_EXPOSE, "").split())
    headers.append((b"Access-Control-Allow-Origin", _granted_origin(metadata, origin)))
    headers.append((b"Access-Control-Expose-Headers", b", ".join(sorted(exposed))))
    headers.append((b"Vary", b"Origin"))


async def _metadata(service: Service, target: Target) -> Metadata:
    if not target.container:
        return {}
    try:
        return (await service.store.head_container(target.account, target.container)).metadata
    except (NoSuchContainer, NoSuchAccount):
        return {}


def _allowed(metadata: Metadata, origin: bytes) -> bool:
    origins = metadata.get(_ORIGINS, "").split()
    return "*" in origins or origin.decode("latin-1") in origins


def _granted_origin(metadata: Metadata, origin: bytes) -> bytes:
    return b"*" if "*" in metadata.get(_ORIGINS, "").split() else origin
