"""Everything that goes wrong in the Swift dialect, and how it is said over HTTP: in this one place.

Problem: errors arise in the model (`NoSuchContainer`), in a body that does not arrive (`BodyTimeout`), in users
(`IdentityBusy`) and in the dialect itself, and Swift clients read the status, seldom more.

Idea: the dialect raises `SwiftError` with a status; the others are translated here. The body is Swift's little HTML page,
or a line of text where there is something particular to say.

Invariant: an error of ours (500) tells the client nothing but the transaction id.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from http import HTTPStatus

from proxy import model
from proxy.http.message import (
    BodyError,
    BodyTimeout,
    BodyTooLarge,
    ClientDisconnected,
    HeaderList,
    Response,
)
from proxy.identity import BadCredentials, IdentityBusy, IdentityError

PAGES: dict[int, str] = {
    202: "It will be done.",
    400: "This request makes no sense to the server.",
    401: "Who are you? The server could not tell from this request, and what it asks for is not for everybody.",
    403: "You may not do this.",
    404: "There is nothing of this name.",
    405: "This method does not work here.",
    406: "There is no form of this that the request accepts.",
    408: "The server has waited too long for the rest of the request.",
    409: "Something else stands in the way of this request.",
    411: "The request must say how long its body is.",
    412: "A precondition of the request does not hold.",
    413: "The body of the request is too large.",
    416: "The object has no bytes in the requested range.",
    422: "The body of the request is not what the request says that it is.",
    499: "The client went away.",
    500: "The server failed to answer this; its log says why, under this transaction's id.",
    503: "The server can't do this now. Try again.",
    507: "There is no room left to store this.",
}
"""What the page of a status says when nothing more particular is known."""

PLAIN = (b"Content-Type", b"text/plain; charset=UTF-8")
HTML = (b"Content-Type", b"text/html; charset=UTF-8")


class SwiftError(Exception):
    """A request that is answered with an error.

    A `message` becomes the text of the answer; without one the status' page does. `close` ends the connection.
    """

    def __init__(
        self, status: int, message: str = "", headers: Sequence[tuple[bytes, bytes]] = (), close: bool = False
    ) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message
        self.headers = headers
        self.close = close


def reason(status: int) -> str:
    """The phrase of a status: "Not Found"."""
    return "Client Disconnect" if status == 499 else HTTPStatus(status).phrase


def page(status: int) -> bytes:
    """The HTML page of a status."""
    return f"<html><h1>{escape(reason(status))}</h1><p>{escape(PAGES.get(status, ''))}</p></html>\n".encode()


def error_response(error: SwiftError) -> Response:
    """The answer to a request that failed."""
    headers: HeaderList = [PLAIN if error.message else HTML, *error.headers]
    body = f"{error.message.rstrip()}\n".encode("utf-8", "replace") if error.message else page(error.status)
    return Response(error.status, headers, body, close=error.close)


def translated(error: Exception) -> SwiftError | None:
    """The `SwiftError` that says what another error means; None for what should never have come this far."""
    match error:
        case SwiftError():
            return error
        case model.StoreError():
            return _from_store(error)
        case BodyError():
            return _from_body(error)
        case BadCredentials():
            return SwiftError(401)
        case IdentityBusy():
            return SwiftError(503, str(error), ((b"Retry-After", b"1"),))
        case IdentityError():
            return None
        case _:
            return None


def _from_store(error: model.StoreError) -> SwiftError:
    match error:
        case model.NoSuchAccount() | model.NoSuchContainer() | model.NoSuchObject():
            return SwiftError(404)
        case model.ContainerNotEmpty() | model.ContainerExists():
            return SwiftError(409, str(error))
        case model.PreconditionFailed():
            return SwiftError(412, str(error))
        case model.BadDigest():
            return SwiftError(422)
        case model.EntityTooLarge():
            return SwiftError(413, str(error), close=True)
        case model.NameInvalid():
            return SwiftError(400, str(error))
        case model.InsufficientStorage():
            return SwiftError(507)
        case model.Unavailable():
            return SwiftError(503, str(error), ((b"Retry-After", b"1"),))
        case model.SegmentMissing():
            return SwiftError(409, str(error))
        case _:
            return SwiftError(500)


def _from_body(error: BodyError) -> SwiftError:
    match error:
        case BodyTimeout():
            return SwiftError(408, close=True)
        case BodyTooLarge():
            return SwiftError(413, close=True)
        case ClientDisconnected():
            return SwiftError(499, close=True)
        case _:
            return SwiftError(400, str(error), close=True)
