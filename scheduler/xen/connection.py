"""One HTTP connection to a host of a pool: verified, with a deadline, and never asked twice by itself.

XenAPI's own binding sits on `xmlrpc.client`, whose transport does three things that a driver of other people's
machines cannot have: it waits for as long as the other side likes, it reads as much as the other side sends, and when
a kept-alive connection breaks it *sends the call again*, so that a `VM.clone` whose answer was lost is two clones.
`RpcTransport` replaces it below the binding: every wait is cut to what is left of the call's deadline, answers are
bounded, and a broken call is `NoAnswer`, for the caller to look before repeating. The harmless half of the old
behaviour stays: a connection that the other side has closed while idle is noticed before the call is sent.

A deadline by socket time-outs alone would be per read, and a host that sends a byte every second would hold a thread
for ever. So `abort` may be called from another thread: it shuts the socket down, whatever the thread inside is
waiting for.

Certificates: see `settings`. A pinned fingerprint is compared before the first byte is sent.
"""

from __future__ import annotations

import hashlib
import http.client
import select
import socket
import ssl
import time
import xmlrpc.client
from typing import Any

from defusedxml.xmlrpc import DefusedExpatParser

from scheduler.xen.errors import CertificateRefused, NoAnswer, PoolUnreachable
from scheduler.xen.settings import Address, PoolSettings

ANSWER_BYTES_MAX = 256 << 20
"""A pool of 5,000 VMs answers its first `event.from` with some 60 MB; beyond this it is no answer but a fault."""
READ_BYTES = 256 << 10


class NotXenApi(Exception):
    """What came back is not XML-RPC as XenAPI speaks it. Internal: the session makes an error of it that says where
    and when."""


def trust(settings: PoolSettings) -> ssl.SSLContext:
    """The TLS context for a pool. Raises CertificateRefused if its CA file cannot be used."""
    if settings.fingerprints or not settings.verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ValueError) as error:
        raise CertificateRefused(f"pool {settings.name}: cannot use the CA file {settings.ca_file}: {error}") from None


class HostConnection(http.client.HTTPConnection):
    """HTTP or HTTPS to one host. Not thread-safe, except for `abort`."""

    def __init__(self, address: Address, settings: PoolSettings, context: ssl.SSLContext, deadline: float) -> None:
        """`deadline` is of `time.monotonic`; move it with `extend` before each exchange."""
        super().__init__(address.host, address.port)
        self._address = address
        self._settings = settings
        self._context = context
        self._deadline = deadline
        self._aborted = False
        self._line: socket.socket | None = None
        """The socket, also while an answer is read that ends the connection: `sock` is None then."""

    def extend(self, deadline: float) -> None:
        """A new deadline, for the next exchange."""
        self._deadline = deadline
        if self.sock is not None:
            self._arm()

    def remaining_s(self) -> float:
        """Until the deadline. Raises TimeoutError when there is nothing left."""
        left = self._deadline - time.monotonic()
        if left <= 0 or self._aborted:
            raise TimeoutError("the time for this call is over")
        return left

    def _arm(self) -> None:
        assert self._line is not None
        self._line.settimeout(self.remaining_s())

    def connect(self) -> None:
        """Raises PoolUnreachable, CertificateRefused."""
        pool, where = self._settings.name, self._address
        try:
            within_s = min(self.remaining_s(), self._settings.connect_timeout_s)
            raw = socket.create_connection((where.host, where.port), timeout=within_s)
        except (OSError, UnicodeError) as error:
            raise PoolUnreachable(f"pool {pool}: cannot connect to {where}: {error}") from None
        self.sock = self._line = raw  # before the handshake, so that `abort` reaches it
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if where.scheme == "https":
                raw.settimeout(min(self.remaining_s(), self._settings.connect_timeout_s))
                self.sock = self._line = self._context.wrap_socket(raw, server_hostname=where.host)
                self._compare_fingerprint()
            self._arm()
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise CertificateRefused(
                f"pool {pool}: the certificate of {where} is not trusted ({error.verify_message}); give its authority as"
                f" ca_file, or its SHA-256 as a fingerprint"
            ) from None
        except OSError as error:
            self.close()
            raise PoolUnreachable(f"pool {pool}: no TLS with {where}: {error}") from None

    def _compare_fingerprint(self) -> None:
        pins = self._settings.fingerprints
        if not pins or not self._settings.verify:
            return
        assert isinstance(self.sock, ssl.SSLSocket)
        found = hashlib.sha256(self.sock.getpeercert(binary_form=True) or b"").hexdigest()
        if found not in pins:
            self.close()
            raise CertificateRefused(
                f"pool {self._settings.name}: the certificate of {self._address} has the fingerprint {found}, which is not"
                f" among those of its settings"
            )

    def is_idle(self) -> bool:
        """Whether the connection is there and silent: one that the other side closed, or that talks unasked, is not."""
        if self.sock is None or self._aborted:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def abort(self) -> None:
        """From any thread: whatever waits on this connection fails now."""
        self._aborted = True
        held = self._line
        if held is not None:
            try:
                held.shutdown(socket.SHUT_RDWR)
            except (OSError, ValueError):
                return  # already closed

    def read_answer(self, response: http.client.HTTPResponse, bytes_max: int) -> bytes:
        """The whole body. Raises NotXenApi if it is too long, and OSError or HTTPException if it breaks off."""
        pieces: list[bytes] = []
        total = 0
        while not response.isclosed():
            self._arm()
            piece = response.read1(READ_BYTES)
            if not piece:
                break
            total += len(piece)
            if total > bytes_max:
                raise NotXenApi(f"an answer of more than {bytes_max} bytes")
            pieces.append(piece)
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        response.close()  # which is how this connection learns that it can be used again
        return b"".join(pieces)


class RpcTransport(xmlrpc.client.Transport):
    """What XenAPI's binding sends its calls through: one connection, one deadline a call, no call twice."""

    def __init__(self, address: Address, settings: PoolSettings, context: ssl.SSLContext) -> None:
        super().__init__()
        self._address = address
        self._settings = settings
        self._context = context
        self._deadline = 0.0
        self._held: HostConnection | None = None
        self._aborted = False

    def until(self, deadline: float) -> None:
        """The deadline of the next calls, of `time.monotonic`."""
        self._deadline = deadline

    def abort(self) -> None:
        """From any thread: end the call that is under way."""
        self._aborted = True
        held = self._held
        if held is not None:
            held.abort()

    def close(self) -> None:
        """Close the connection."""
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def getparser(self) -> tuple[Any, xmlrpc.client.Unmarshaller]:
        """An XML parser that expands no entities."""
        target = xmlrpc.client.Unmarshaller()
        return DefusedExpatParser(target), target

    # The base's signature, and its names.
    def request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> Any:
        """One call and its answer.

        Raises PoolUnreachable and CertificateRefused when nothing was sent, NoAnswer when it was and nothing came
        back, NotXenApi.
        """
        connection = self._connected()
        where = f"pool {self._settings.name}: {self._address}"
        headers = {"Content-Type": "text/xml", "User-Agent": "ringstead", "Accept-Encoding": "identity"}
        try:
            connection.request("POST", handler, request_body, headers)
            response = connection.getresponse()
            body = connection.read_answer(response, ANSWER_BYTES_MAX)
        except NotXenApi:
            self.close()
            raise
        except TimeoutError:
            self.close()
            raise NoAnswer(f"{where} did not answer in time") from None
        except http.client.RemoteDisconnected:
            self.close()
            raise NoAnswer(f"{where} closed the connection without an answer") from None
        except (http.client.BadStatusLine, http.client.LineTooLong, http.client.UnknownProtocol) as error:
            self.close()
            raise NotXenApi(f"no HTTP but {str(error)[:80]!r}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise NoAnswer(f"{where} broke off: {error!r:.200}") from None
        if response.will_close:
            self.close()
        if response.status != 200:
            raise NotXenApi(f"HTTP status {response.status} {str(response.reason)[:80]}")
        return self._parsed(body)

    def _connected(self) -> HostConnection:
        if self._held is not None and not self._held.is_idle():
            self.close()
        if self._held is None:
            held = HostConnection(self._address, self._settings, self._context, self._deadline)
            self._held = held
            if self._aborted:
                held.abort()
            try:
                held.connect()
            except BaseException:
                self.close()
                raise
        else:
            self._held.extend(self._deadline)
        return self._held

    def _parsed(self, body: bytes) -> Any:
        parser, target = self.getparser()
        try:
            parser.feed(body)
            parser.close()
            return target.close()
        except xmlrpc.client.Fault as fault:
            raise NotXenApi(f"an XML-RPC fault: {str(fault.faultString)[:200]}") from None
        except Exception as error:  # whatever a parser trips over in bytes that somebody else wrote
            raise NotXenApi(f"no XML-RPC but {body[:60]!r} ({type(error).__name__})") from None
