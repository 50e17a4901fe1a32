"""One request on its way through the dialect, and what all its operations share.

`Service` is what lives as long as the process: the store, the users, the settings, the clock. `Call` is one request: what
it is about, who asks, and its query's parameters. Operations are functions of the two; they hold nothing between requests.

Invariant: `Call.owner` is True only for a user of the account's own project, an administrator, or the bearer of a signed
URL for exactly this object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from proxy.http.message import BodyReader, Request, parse_query
from proxy.identity import Identity, User
from proxy.model import NoSuchAccount, NoSuchContainer
from proxy.store import ObjectStore
from proxy.swift.access import acl_of, may_read, may_write, owns
from proxy.swift.errors import SwiftError
from proxy.swift.metadata import READ_ACL, WRITE_ACL
from proxy.swift.paths import Target
from proxy.swift.settings import SwiftSettings

NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})


class Service:
    """What the operations of all requests share."""

    __slots__ = ("clock", "identity", "settings", "store")

    def __init__(
        self, store: ObjectStore, identity: Identity, settings: SwiftSettings, clock: Callable[[], float]
    ) -> None:
        self.store = store
        self.identity = identity
        self.settings = settings
        self.clock = clock
        """Seconds since 1970."""


class Call:
    """One request to an account, a container or an object."""

    __slots__ = ("account", "container", "headers", "name", "owner", "parameters", "request", "user")

    def __init__(self, request: Request, target: Target, user: User | None, owner: bool) -> None:
        self.request = request
        self.headers = request.headers
        self.account, self.container, self.name = target
        self.user = user
        """None: nobody in particular."""
        self.owner = owner
        self.parameters: Mapping[str, str] = parse_query(request.query) if request.query else NO_PARAMETERS

    def parameter(self, name: str) -> bytes:
        """A parameter as a name's bytes; b"" if it is not given. Raises SwiftError 400 for what is no UTF-8."""
        value = self.parameters.get(name)
        if not value:
            return b""
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise SwiftError(400, f'"{name}" parameter not valid UTF-8') from None


def refusal(call: Call) -> SwiftError:
    """What someone is told who may not: 401 if we do not know who it is, else 403."""
    if call.user is not None:
        return SwiftError(403)
    realm = call.account.encode("ascii", "replace").replace(b'"', b"?")
    return SwiftError(401, headers=((b"Www-Authenticate", b'Swift realm="%b"' % realm),))


async def check_read(service: Service, call: Call, account: str, container: bytes, *, listing: bool = False) -> None:
    """Whether the caller may read in a container. Raises SwiftError 401 or 403."""
    if (call.owner and account == call.account) or owns(call.user, account):
        return
    acl = await _acl(service, account, container, READ_ACL)
    if not may_read(acl, call.user, call.headers.get(b"referer"), listing=listing):
        raise refusal(call)


async def check_write(service: Service, call: Call, account: str, container: bytes) -> None:
    """Whether the caller may write in a container. Raises SwiftError 401 or 403."""
    if (call.owner and account == call.account) or owns(call.user, account):
        return
    if not may_write(await _acl(service, account, container, WRITE_ACL), call.user):
        raise refusal(call)


async def _acl(service: Service, account: str, container: bytes, name: str) -> str:
    """A container's ACL; none where there is no container, so that strangers do not learn which there are."""
    try:
        return acl_of((await service.store.head_container(account, container)).metadata, name)
    except (NoSuchContainer, NoSuchAccount):
        return ""


async def read_whole(body: BodyReader, bytes_max: int) -> bytes:
    """A short body. Raises SwiftError 413 where it is longer than `bytes_max`."""
    if body.length is not None and body.length > bytes_max:
        raise SwiftError(413, f"the body is longer than {bytes_max} bytes")
    pieces: list[bytes] = []
    held = 0
    while piece := await body.read():
        held += len(piece)
        if held > bytes_max:
            raise SwiftError(413, f"the body is longer than {bytes_max} bytes")
        pieces.append(piece)
    return b"".join(pieces)
