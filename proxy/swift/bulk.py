"""Many objects in one request: bulk delete, and the summary that it and manifests' deletion answer with.

    POST /v1/AUTH_science?bulk-delete
    container/object%201
    container

The answer's status is 200 even where nothing could be deleted; what happened is in its body, as text, JSON or XML. Objects
are deleted several at a time in the order of the list; a container only after all objects before it in the list.

Invariants: never more than `bulk_delete_count_max` names, nor a body longer than they could be; each name is checked
against the caller's rights as a DELETE of its own would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes
from xml.sax.saxutils import escape

import orjson
import trio

from proxy.http.message import Response
from proxy.model import NoSuchAccount, NoSuchContainer, NoSuchObject
from proxy.names import ObjectName
from proxy.swift.call import Call, Service, check_write, read_whole, refusal
from proxy.swift.errors import SwiftError, reason, translated
from proxy.swift.listings import JSON, TEXT, chosen_format
from proxy.swift.metadata import expired
from proxy.swift.paths import check_lengths, check_utf8, quote_name

_LINE_BYTES_MAX = 4 * 1300
"""A name's bytes, percent-encoded, and slashes."""


@dataclass(slots=True)
class Tally:
    """What became of the names of one request."""

    deleted: int = 0
    missing: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    """Quoted name and what stood in the way."""


async def bulk_delete(service: Service, call: Call) -> Response:
    """POST or DELETE ?bulk-delete: 200 with a summary; 413 for too many names."""
    settings = service.settings
    count_max = settings.bulk_delete_count_max
    data = await read_whole(call.request.body, count_max * _LINE_BYTES_MAX)
    lines = [line for line in (raw.strip() for raw in data.split(b"\n")) if line]
    if len(lines) > count_max:
        raise SwiftError(413, f"Maximum Bulk Deletes: {count_max} per request")
    if not lines:
        return summary(call, Tally(), "400 Bad Request", "Invalid bulk delete.")
    tally = Tally()
    batch: list[ObjectName] = []
    for line in lines:
        if len(tally.errors) >= settings.bulk_delete_failure_count_max:
            return summary(call, tally, "400 Bad Request", "Max delete failures exceeded")
        try:
            name = _parse_line(call.account, line, service)
        except SwiftError as error:
            tally.errors.append((line.decode("latin-1"), f"{error.status} {reason(error.status)}"))
            continue
        if not name.name:
            _add(tally, await delete_all(service, call, batch))
            batch = []
        batch.append(name)
        if not name.name or len(batch) >= 256:
            _add(tally, await delete_all(service, call, batch))
            batch = []
    _add(tally, await delete_all(service, call, batch))
    return summary(call, tally, "400 Bad Request" if tally.errors else "200 OK")


async def delete_all(service: Service, call: Call, names: Sequence[ObjectName]) -> Tally:
    """Delete each of the names, several at a time. What can't be deleted is told, and stops nothing."""
    limit = trio.CapacityLimiter(service.settings.bulk_delete_concurrency)
    results: dict[ObjectName, str | Exception | None] = {}

    async def delete(name: ObjectName) -> None:
        async with limit:
            try:
                results[name] = await _delete_one(service, call, name)
            except Exception as error:
                results[name] = error

    async with trio.open_nursery() as nursery:
        for name in dict.fromkeys(names):
            nursery.start_soon(delete, name)
    tally = Tally()
    for name in dict.fromkeys(names):
        problem = results[name]
        if problem == "":
            tally.deleted += 1
        elif problem is None:
            tally.missing += 1
        elif isinstance(problem, Exception):
            raise problem
        else:
            quoted = quote_name(b"/" + name.container + (b"/" + name.name if name.name else b""))
            tally.errors.append((quoted, problem))
    return tally


async def _delete_one(service: Service, call: Call, name: ObjectName) -> str | None:
    """Delete an object or an empty container; "" if it was, None if it was not there, else the status."""
    try:
        if name.name:
            await check_write(service, call, name.account, name.container)
            info = await service.store.delete_object(*name)
            return None if expired(info.metadata, service.clock()) else ""
        if not call.owner:
            raise refusal(call)
        await service.store.delete_container(name.account, name.container)
    except (NoSuchObject, NoSuchContainer, NoSuchAccount):
        return None
    except Exception as error:
        known = translated(error)
        if known is None:
            raise
        return f"{known.status} {reason(known.status)}"
    return ""


def _parse_line(account: str, line: bytes, service: Service) -> ObjectName:
    """Raises SwiftError 400, 412."""
    if len(line) > _LINE_BYTES_MAX:
        raise SwiftError(400)
    path = unquote_to_bytes(line)
    check_utf8(path)
    container, _, name = path.removeprefix(b"/").partition(b"/")
    if not container:
        raise SwiftError(400)
    check_lengths(container, name, service.settings)
    return ObjectName(account, container, name)


def _add(total: Tally, more: Tally) -> None:
    total.deleted += more.deleted
    total.missing += more.missing
    total.errors.extend(more.errors)


def summary(call: Call, tally: Tally, status: str, message: str = "", *, upload: bool = False) -> Response:
    """The answer that says what became of many names. A manifest that was refused (`upload`) is a 400 in earnest."""
    media_type = chosen_format(call)
    fields: dict[str, object] = {} if upload else {"Number Deleted": tally.deleted, "Number Not Found": tally.missing}
    fields |= {"Response Body": message, "Response Status": status}
    if media_type == JSON:
        body = orjson.dumps({**fields, "Errors": tally.errors})
    elif media_type == TEXT:
        lines = [f"{name}: {value}" for name, value in fields.items()]
        body = "\n".join((*lines, "Errors:", *(f"{name}, {problem}" for name, problem in tally.errors), "")).encode()
    else:
        tags = "".join(
            f"<{name.lower().replace(' ', '_')}>{escape(str(value))}</{name.lower().replace(' ', '_')}>"
            for name, value in fields.items()
        )
        errors = "".join(
            f"<object><name>{escape(name)}</name><status>{escape(problem)}</status></object>"
            for name, problem in tally.errors
        )
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<delete>{tags}<errors>{errors}</errors></delete>'.encode()
    headers = [(b"Content-Type", f"{media_type}; charset=utf-8".encode())]
    return Response(400 if upload else 200, headers, body)
