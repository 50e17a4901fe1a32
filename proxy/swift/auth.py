"""Swift's v1 auth: a name and a password for a token and the address of one's account.

    GET /auth/v1.0     X-Auth-User: science:ada     X-Auth-Key: …     (or X-Storage-User, X-Storage-Pass)
    200                X-Storage-Url: http://HOST/v1/AUTH_science     X-Auth-Token: AUTH_tk…

The address is made of the Host that the client used: it reaches us there, whatever we are called ourselves.
"""

from __future__ import annotations

import re

from proxy.http.message import Request, Response
from proxy.identity import BadCredentials
from proxy.swift.call import Service
from proxy.swift.errors import SwiftError
from proxy.swift.paths import quote_name

PATHS = frozenset((b"/auth", b"/auth/", b"/auth/v1.0", b"/auth/v1.0/", b"/auth/v1", b"/auth/v1/", b"/v1.0", b"/v1.0/"))
_HOST = re.compile(rb"[A-Za-z0-9._~:\[\]-]{1,255}")
_CHALLENGE = ((b"Www-Authenticate", b'Swift realm="unknown"'),)


async def authenticate(service: Service, request: Request) -> Response:
    """200 with a token; 401, 405, 412, 503."""
    if request.method not in ("GET", "HEAD"):
        raise SwiftError(405, headers=((b"Allow", b"GET, HEAD"),))
    headers = request.headers
    name = headers.get(b"x-auth-user") or headers.get(b"x-storage-user")
    password = headers.get(b"x-auth-key") or headers.get(b"x-storage-pass")
    if not name or not password:
        raise SwiftError(401, headers=_CHALLENGE)
    host = headers.get(b"host", b"")
    if not _HOST.fullmatch(host):
        raise SwiftError(412, "the Host header is needed to tell where your account is")
    try:
        user = await service.identity.by_password(
            name.decode("utf-8", "surrogateescape"), password.decode("utf-8", "surrogateescape")
        )
    except BadCredentials:
        raise SwiftError(401, headers=_CHALLENGE) from None
    token, life_s = service.identity.issue_token(user)
    scheme = service.settings.storage_url_scheme or request.scheme
    url = f"{scheme}://{host.decode('ascii')}/v1/{quote_name(user.account.encode())}"
    return Response(
        200,
        [
            (b"Content-Type", b"text/plain; charset=UTF-8"),
            (b"X-Storage-Url", url.encode()),
            (b"X-Auth-Token", token.encode()),
            (b"X-Storage-Token", token.encode()),
            (b"X-Auth-Token-Expires", b"%d" % life_s),
        ],
    )
