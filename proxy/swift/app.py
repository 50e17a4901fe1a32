"""The Swift dialect: a request in, the operation that it means, a response out.

    /info                          what this cluster can do
    /auth/v1.0                     a token for a name and a password
    /v1/ACCOUNT[/CONTAINER[/OBJECT]]

Each method of each kind of thing is one function of (service, call); the tables below are the whole routing. Who asks is
settled here, before any operation runs: the owner of the account (one dictionary look-up for a token seen lately), the
bearer of a signed URL, or somebody whom the container's ACL must let in. Errors of every kind become responses here too.

Invariant: an operation runs only if its caller may do what it does; the operations that touch a second container (copies,
large objects, bulk) ask for themselves about that one.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version

import orjson

from proxy.http.message import Request, Response
from proxy.identity import Identity, User
from proxy.store import ObjectStore
from proxy.swift import auth, cors, tempurl
from proxy.swift.access import owns
from proxy.swift.bulk import bulk_delete
from proxy.swift.call import Call, Service, check_read, check_write, refusal
from proxy.swift.containers import (
    delete_account,
    delete_container,
    get_account,
    get_container,
    head_account,
    head_container,
    post_account,
    post_container,
    put_account,
    put_container,
)
from proxy.swift.copying import copy_object, put_copy
from proxy.swift.errors import SwiftError, error_response, translated
from proxy.swift.paths import Target, parse_path
from proxy.swift.reading import get_object, head_object
from proxy.swift.segments import delete_manifest, put_manifest
from proxy.swift.settings import SwiftSettings, info_document
from proxy.swift.writing import delete_object, post_object, put_object

Operation = Callable[[Service, Call], Awaitable[Response]]

_ACCOUNT: dict[str, Operation] = {
    "GET": get_account,
    "HEAD": head_account,
    "PUT": put_account,
    "POST": post_account,
    "DELETE": delete_account,
}
_CONTAINER: dict[str, Operation] = {
    "GET": get_container,
    "HEAD": head_container,
    "PUT": put_container,
    "POST": post_container,
    "DELETE": delete_container,
}
_OBJECT: dict[str, Operation] = {
    "GET": get_object,
    "HEAD": head_object,
    "PUT": put_object,
    "POST": post_object,
    "DELETE": delete_object,
    "COPY": copy_object,
}
_READS = frozenset(("GET", "HEAD", "COPY"))


class SwiftApp:
    """The Swift dialect of one process."""

    def __init__(
        self,
        store: ObjectStore,
        identity: Identity,
        settings: SwiftSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        settings = settings or SwiftSettings()
        self._service = Service(store, identity, settings, clock)
        self._info = orjson.dumps(info_document(settings, _version()))

    async def handle(self, request: Request) -> Response:
        """Answer a request. Raises only for what is a defect of ours."""
        try:
            response = await self._answer(request)
        except Exception as error:
            known = translated(error)
            if known is None:
                raise
            response = error_response(known)
        response.headers.append((b"X-Openstack-Request-Id", request.transaction_id.encode("ascii")))
        return response

    async def _answer(self, request: Request) -> Response:
        path = request.path
        if not path.startswith(b"/v1/"):
            return await self._answer_elsewhere(request)
        service = self._service
        target = parse_path(path, service.settings)
        headers = request.headers
        method = request.method
        token = headers.get(b"x-auth-token") or headers.get(b"x-storage-token")
        signed = service.settings.tempurl and bool(request.query) and tempurl.is_signed(request.query)
        user: User | None = None
        if method == "OPTIONS":
            return await cors.preflight(service, target, headers, allow_header(target))
        if signed:
            await tempurl.check_signature(service, request, target)
        elif token:
            user = service.identity.known_token(token) or await service.identity.by_token(token)
        call = Call(request, target, user, signed or (user is not None and owns(user, target.account)))
        operation = operation_of(call)
        if target.container:
            await service.store.ensure_account(target.account)
        if not call.owner:
            await self._check_rights(call)
        response = await operation(service, call)
        if signed and method in ("GET", "HEAD") and response.status in (200, 206):
            tempurl.decorate(response.headers, call.parameters, target)
        origin = headers.get(b"origin")
        if origin is not None:
            await cors.expose(service, target, origin, response.headers)
        return response

    async def _check_rights(self, call: Call) -> None:
        """Whether somebody who is not the owner may do this. Raises SwiftError 401, 403."""
        method = call.request.method
        if call.name:
            check = check_read if method in _READS else check_write
            await check(self._service, call, call.account, call.container)
        elif call.container and method in ("GET", "HEAD"):
            await check_read(self._service, call, call.account, call.container, listing=True)
        else:
            raise refusal(call)

    async def _answer_elsewhere(self, request: Request) -> Response:
        if request.path in auth.PATHS:
            return await auth.authenticate(self._service, request)
        if request.path == b"/info":
            if request.method not in ("GET", "HEAD"):
                raise SwiftError(405, headers=((b"Allow", b"GET, HEAD"),))
            return Response(200, [(b"Content-Type", b"application/json; charset=UTF-8")], self._info)
        raise SwiftError(404)


def operation_of(call: Call) -> Operation:
    """What a request means. Raises SwiftError 405."""
    method = call.request.method
    operation = table_of(call).get(method)
    if operation is None:
        raise SwiftError(405, headers=((b"Allow", allow_header(Target(call.account, call.container, call.name))),))
    if operation is put_object:
        if b"x-copy-from" in call.headers:
            return put_copy
        if call.parameters.get("multipart-manifest") == "put":
            return put_manifest
    elif call.parameters:
        if operation is delete_object and call.parameters.get("multipart-manifest") == "delete":
            return delete_manifest
        if "bulk-delete" in call.parameters and method in ("POST", "DELETE") and not call.container:
            return bulk_delete
    return operation


def table_of(target: Target | Call) -> dict[str, Operation]:
    """The methods of an account, a container or an object."""
    return _OBJECT if target.name else _CONTAINER if target.container else _ACCOUNT


def allow_header(target: Target) -> bytes:
    """The methods that a 405 and OPTIONS name."""
    return ", ".join(sorted((*table_of(target), "OPTIONS"))).encode()


def _version() -> str:
    try:
        return version("ringstead")
    except PackageNotFoundError:
        return "0"
