"""How the two ends of a connection prove to each other that they know the cluster key, before anything else is said.

Problem: whoever can open a connection to a device could read and destroy what is on it. Services authenticate each other
with nothing but the cluster key, which must never travel, nor be guessable from what travels.

Idea: challenge and response with HMAC-SHA256 over everything said so far.

    client                                              server
      hello: versions, nonce, purpose, device, epoch  ->
                          <-  challenge: versions, version, nonce, epoch; proof("server", hello, challenge)
      proof("client", hello, challenge)               ->
                          <-  verdict: accepted or why not, device uuid; proof("verdict", hello, challenge, verdict)

The verdict on who is accepted also says whether the device is being filled: a proxy must know that before any answer counts.

A proof is HMAC(key, role | hello | challenge | ...), each part with its length before it. It covers both fresh nonces (so
nothing can be replayed), the role (so nothing can be reflected), and versions, purpose, device and epochs (so nothing can
be changed on the way, nor a version be forced down). The server proves first: a client with another key learns so itself,
and what an impostor gets to see tells it nothing. The form of hello and challenge is the same in all versions.

What this does not do: without TLS whoever can rewrite packets between the two can take the connection over once it is
proved. Networks where that is to be feared need the TLS setting.

Rejected: sending a token (one eavesdropper has it for ever); TLS client certificates as the only way (a small team would
have to run a certificate authority before it stores the first byte); SPAKE2 and such (the key is 32 random bytes and not a
password).

Sans I/O: `start()` and `receive(data)` give the bytes to send; `agreed` is set once it is done.

Nobody may send anything behind it before it is over, so no bytes are left for the frames that follow.

Invariants: at most HANDSHAKE_BYTES_MAX are taken from a peer that has proved nothing; the server names no device, and says
not even whether it exists, before the client has proved itself; every comparison of proofs takes constant time.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from enum import IntEnum
from typing import Final, NamedTuple

from storage_node.codec import decode_fields, pack
from storage_node.fields import UUID_BYTES
from storage_node.frames import Buffer, FrameReader, ProtocolError, frame

MAGIC = "ringstead"
VERSION_MIN = 1
VERSION_MAX = 1
"""Protocol versions that this release speaks. A change of any message's fields is a new version."""
NONCE_BYTES = 32
DEVICE_NAME_BYTES_MAX = 255
HANDSHAKE_BYTES_MAX = 4096
"""Longest message of a handshake."""
HANDSHAKE_TIMEOUT_S = 5.0
"""A peer that has not proved itself by then is cut off."""
EPOCH_MAX = (1 << 63) - 1
CLUSTER_KEY_BYTES_MIN = 16


class Purpose(IntEnum):
    """What a connection is for, from its first byte to its last."""

    CONTROL = 0
    """Multiplexed requests and answers."""
    BULK = 1
    """One transfer of object data at a time."""


class Verdict(IntEnum):
    """What the server says of a client's proof."""

    ACCEPTED = 0
    WRONG_KEY = 1
    UNKNOWN_DEVICE = 2
    BUSY = 3


class HandshakeError(Exception):
    """The two ends do not agree. The message says who has to do what."""


class WrongKey(HandshakeError):
    """The peer does not have this cluster's key. An operator's fault: it belongs to another cluster, or was mistyped."""


class WrongVersion(HandshakeError):
    """The two speak no common version of the protocol. Upgrade the older one."""


class UnknownDevice(HandshakeError):
    """The server does not serve that device (any more, or with that uuid). The ring and the node disagree."""


class ServerBusy(HandshakeError):
    """The server has as many connections as it takes. Try again later."""


class Agreed(NamedTuple):
    """The outcome of a handshake."""

    version: int
    device_name: str
    device_uuid: bytes
    purpose: Purpose
    peer_ring_epoch: int
    """Epoch of the newest ring that the peer has; 0 if it has none."""
    filling: bool = False
    """The device is being filled: what it does not have may be there all the same."""


class _Hello(NamedTuple):
    magic: str
    version_min: int
    version_max: int
    nonce: bytes
    purpose: int
    device_name: str
    device_uuid: bytes
    """The device's that the client means; empty if it takes any of that name."""
    ring_epoch: int


class _Challenge(NamedTuple):
    version_min: int
    version_max: int
    version: int
    """The one to speak; 0 if there is none that both do."""
    nonce: bytes
    ring_epoch: int


def _proof(key: bytes, role: bytes, *said: bytes) -> bytes:
    parts = (b"ringstead handshake " + role, *said)
    return hmac.digest(key, b"".join(len(part).to_bytes(4, "big") + part for part in parts), "sha256")


def _signed(payload: bytes) -> tuple[bytes, bytes]:
    """The bytes that a proof comes with, and the proof."""
    signed, proof = decode_fields(payload, 2)
    if type(signed) is not bytes or type(proof) is not bytes:
        raise ProtocolError("a malformed message in the handshake")
    return signed, proof


def _is_count(value: object, maximum: int = EPOCH_MAX) -> bool:
    return type(value) is int and 0 <= value <= maximum


def _read_hello(payload: bytes) -> _Hello:
    hello = _Hello(*decode_fields(payload, len(_Hello._fields)))  # type: ignore[arg-type]
    if hello.magic != MAGIC:
        raise ProtocolError("not a client of this protocol")
    if not (
        _is_count(hello.version_min)
        and _is_count(hello.version_max)
        and type(hello.nonce) is bytes
        and len(hello.nonce) == NONCE_BYTES
        and _is_count(hello.purpose, max(Purpose))
        and type(hello.device_name) is str
        and len(hello.device_name.encode()) <= DEVICE_NAME_BYTES_MAX
        and type(hello.device_uuid) is bytes
        and len(hello.device_uuid) in (0, UUID_BYTES)
        and _is_count(hello.ring_epoch)
    ):
        raise ProtocolError("a malformed hello")
    return hello


def _read_challenge(signed: bytes) -> _Challenge:
    challenge = _Challenge(*decode_fields(signed, len(_Challenge._fields)))  # type: ignore[arg-type]
    if not (
        _is_count(challenge.version_min)
        and _is_count(challenge.version_max)
        and _is_count(challenge.version)
        and type(challenge.nonce) is bytes
        and len(challenge.nonce) == NONCE_BYTES
        and _is_count(challenge.ring_epoch)
    ):
        raise ProtocolError("a malformed challenge")
    return challenge


def check_key(key: bytes) -> bytes:
    """The key itself; raises ValueError if it is too short to keep anybody out."""
    if len(key) < CLUSTER_KEY_BYTES_MIN:
        raise ValueError(f"a cluster key of {len(key)} bytes; at least {CLUSTER_KEY_BYTES_MIN} random ones are needed")
    return key


class ClientHandshake:
    """The connecting end.

    `nonce` must be fresh random bytes. `device_uuid`, where known, makes sure that it is that very device and not
    another that was given its name.
    """

    def __init__(
        self,
        key: bytes,
        device_name: str,
        purpose: Purpose,
        nonce: bytes,
        *,
        ring_epoch: int = 0,
        device_uuid: bytes = b"",
        versions: tuple[int, int] = (VERSION_MIN, VERSION_MAX),
    ) -> None:
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce of {len(nonce)} bytes")
        if not 0 < len(device_name.encode()) <= DEVICE_NAME_BYTES_MAX:
            raise ValueError(f"a device name of {len(device_name.encode())} bytes")
        self._key = check_key(key)
        self._hello = _Hello(MAGIC, *versions, nonce, int(purpose), device_name, device_uuid, ring_epoch)
        self._hello_bytes = pack(self._hello)
        self._reader = FrameReader(HANDSHAKE_BYTES_MAX)
        self._challenge: _Challenge | None = None
        self._challenge_bytes = b""
        self.agreed: Agreed | None = None
        """Set once the server has accepted."""

    def start(self) -> bytes:
        """What to send first."""
        return frame(self._hello_bytes)

    def receive(self, data: Buffer) -> bytes:
        """Take what the server sent, and give what to send it.

        Raises HandshakeError's kinds where the two do not agree, ProtocolError where it is not this protocol at all.
        """
        answer = b""
        for payload in self._reader.feed(data):
            if self._challenge is None:
                answer += self._prove(bytes(payload))
            elif self.agreed is None:
                self._judge(self._challenge, bytes(payload))
            else:
                raise ProtocolError("the server went on before it was asked")
        if self.agreed is not None and self._reader.held_bytes:
            raise ProtocolError("the server went on before it was asked")
        return answer

    def _prove(self, payload: bytes) -> bytes:
        signed, proof = _signed(payload)
        if not hmac.compare_digest(proof, _proof(self._key, b"server", self._hello_bytes, signed)):
            raise WrongKey("the server does not have this cluster's key")
        challenge = _read_challenge(signed)
        if not max(1, self._hello.version_min) <= challenge.version <= self._hello.version_max:
            raise WrongVersion(
                f"the server speaks versions {challenge.version_min} to {challenge.version_max} of the protocol, "
                f"this client {self._hello.version_min} to {self._hello.version_max}"
            )
        self._challenge, self._challenge_bytes = challenge, signed
        return frame(pack((_proof(self._key, b"client", self._hello_bytes, signed),)))

    def _judge(self, challenge: _Challenge, payload: bytes) -> None:
        signed, proof = _signed(payload)
        if not hmac.compare_digest(
            proof, _proof(self._key, b"verdict", self._hello_bytes, self._challenge_bytes, signed)
        ):
            raise WrongKey("the server's verdict is not signed with this cluster's key")
        verdict, detail, device_uuid = decode_fields(signed, 3)
        if type(detail) is not str or type(device_uuid) is not bytes or verdict not in list(Verdict):
            raise ProtocolError("a malformed verdict")
        if verdict != Verdict.ACCEPTED:
            raise _REFUSALS[Verdict(verdict)](detail)  # type: ignore[arg-type]
        if len(device_uuid) != UUID_BYTES:
            raise ProtocolError("a malformed verdict")
        self.agreed = Agreed(
            challenge.version,
            self._hello.device_name,
            device_uuid,
            Purpose(self._hello.purpose),
            challenge.ring_epoch,
            detail == _FILLING,
        )


_FILLING: Final = "filling"
"""The detail of a verdict that accepts, where the device is being filled."""
_REFUSALS: dict[Verdict, type[HandshakeError]] = {
    Verdict.WRONG_KEY: WrongKey,
    Verdict.UNKNOWN_DEVICE: UnknownDevice,
    Verdict.BUSY: ServerBusy,
}


class ServerHandshake:
    """The accepting end.

    `device_uuid` gives the uuid of the device with a name, None if there is none. `busy`, if not empty, says why no
    connection is taken at the moment. `filling` says whether a device is being filled.
    """

    def __init__(
        self,
        key: bytes,
        device_uuid: Callable[[str], bytes | None],
        nonce: bytes,
        *,
        ring_epoch: int = 0,
        versions: tuple[int, int] = (VERSION_MIN, VERSION_MAX),
        busy: str = "",
        filling: Callable[[str], bool] = lambda _: False,
    ) -> None:
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce of {len(nonce)} bytes")
        self._key = check_key(key)
        self._device_uuid = device_uuid
        self._nonce = nonce
        self._ring_epoch = ring_epoch
        self._versions = versions
        self._busy = busy
        self._filling = filling
        self._reader = FrameReader(HANDSHAKE_BYTES_MAX)
        self._hello: _Hello | None = None
        self._hello_bytes = b""
        self._challenge_bytes = b""
        self._version = 0
        self.agreed: Agreed | None = None
        """Set once the client has proved itself and was accepted."""
        self.error: HandshakeError | None = None
        """Set when it was refused: send what receive() gave, then close."""

    def receive(self, data: Buffer) -> bytes:
        """Take what the client sent, and give what to send it. Look at `agreed` and `error` afterwards.

        Raises ProtocolError where it is not this protocol at all.
        """
        answer = b""
        for payload in self._reader.feed(data):
            if self.agreed is not None or self.error is not None:
                raise ProtocolError("the client went on before it was accepted")
            if self._hello is None:
                answer += self._answer_hello(bytes(payload))
            else:
                answer += self._judge(self._hello, bytes(payload))
        if self._reader.held_bytes and (self.agreed is not None or self.error is not None):
            raise ProtocolError("the client went on before it was accepted")
        return answer

    def _answer_hello(self, payload: bytes) -> bytes:
        hello = _read_hello(payload)
        self._hello, self._hello_bytes = hello, payload
        low, high = self._versions
        best = min(high, hello.version_max)
        self._version = best if best >= max(low, hello.version_min) else 0
        self._challenge_bytes = pack(_Challenge(low, high, self._version, self._nonce, self._ring_epoch))
        if not self._version:
            self.error = WrongVersion(
                f"the client speaks versions {hello.version_min} to {hello.version_max} of the protocol, "
                f"this server {low} to {high}"
            )
        return self._sign(b"server", self._challenge_bytes, self._hello_bytes)

    def _judge(self, hello: _Hello, payload: bytes) -> bytes:
        (proof,) = decode_fields(payload, 1)
        if type(proof) is not bytes:
            raise ProtocolError("a malformed proof")
        if not hmac.compare_digest(proof, _proof(self._key, b"client", self._hello_bytes, self._challenge_bytes)):
            return self._conclude(Verdict.WRONG_KEY, "the client does not have this cluster's key")
        name, uuid = hello.device_name, self._device_uuid(hello.device_name)
        if uuid is None:
            return self._conclude(Verdict.UNKNOWN_DEVICE, f"no device {name!r} is served here")
        if hello.device_uuid not in (b"", uuid):
            detail = f"device {name!r} has uuid {uuid.hex()} here, not {hello.device_uuid.hex()}"
            return self._conclude(Verdict.UNKNOWN_DEVICE, detail)
        if self._busy:
            return self._conclude(Verdict.BUSY, self._busy)
        filling = self._filling(name)
        self.agreed = Agreed(self._version, name, uuid, Purpose(hello.purpose), hello.ring_epoch, filling)
        return self._conclude(Verdict.ACCEPTED, _FILLING if filling else "", uuid)

    def _conclude(self, verdict: Verdict, detail: str, uuid: bytes = b"") -> bytes:
        if verdict != Verdict.ACCEPTED:
            self.error = _REFUSALS[verdict](detail)
        signed = pack((int(verdict), detail, uuid))
        return self._sign(b"verdict", signed, self._hello_bytes, self._challenge_bytes)

    def _sign(self, role: bytes, signed: bytes, *said: bytes) -> bytes:
        return frame(pack((signed, _proof(self._key, role, *said, signed))))
