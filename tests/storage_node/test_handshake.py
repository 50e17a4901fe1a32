"""Invariant tested: two ends agree exactly when both have the key, speak a common version and mean the same device."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_node.frames import FrameReader, ProtocolError, frame
from storage_node.handshake import (
    HANDSHAKE_BYTES_MAX,
    ClientHandshake,
    HandshakeError,
    Purpose,
    ServerBusy,
    ServerHandshake,
    UnknownDevice,
    WrongKey,
    WrongVersion,
)

KEY = b"the cluster's own key, 32 bytes."
UUID = b"u" * 16
CLIENT_NONCE = b"c" * 32
SERVER_NONCE = b"s" * 32


def devices(name: str) -> bytes | None:
    """The device "sda" is served."""
    return UUID if name == "sda" else None


def client(key: bytes = KEY, name: str = "sda", nonce: bytes = CLIENT_NONCE, **options: object) -> ClientHandshake:
    """A client's end."""
    return ClientHandshake(key, name, Purpose.CONTROL, nonce, **options)  # type: ignore[arg-type]


def server(key: bytes = KEY, nonce: bytes = SERVER_NONCE, **options: object) -> ServerHandshake:
    """A server's end."""
    return ServerHandshake(key, devices, nonce, **options)  # type: ignore[arg-type]


def shake(left: ClientHandshake, right: ServerHandshake) -> None:
    """Carry the bytes between the two until nobody has anything to say. Raises what the client raises."""
    to_server = left.start()
    while to_server:
        to_client = right.receive(to_server)
        to_server = left.receive(to_client) if to_client else b""


@given(st.integers(0, 1 << 60), st.integers(0, 1 << 60), st.sampled_from(Purpose), st.booleans())
def test_two_ends_with_the_key_agree(epoch: int, other_epoch: int, purpose: Purpose, filling: bool) -> None:
    """Both learn version, device, its uuid, the purpose, each other's ring epoch, and whether the device is being filled."""
    left = ClientHandshake(KEY, "sda", purpose, CLIENT_NONCE, ring_epoch=epoch, device_uuid=UUID)
    right = server(ring_epoch=other_epoch, filling=lambda _: filling)
    shake(left, right)
    assert left.agreed is not None
    assert right.agreed is not None
    assert left.agreed == right.agreed._replace(peer_ring_epoch=other_epoch)
    assert right.agreed == (1, "sda", UUID, purpose, epoch, filling)


def test_any_cutting_of_the_stream_will_do() -> None:
    """The handshake goes through one byte at a time, and leaves what comes behind it."""
    left, right = client(), server()
    pending = left.start()
    while pending:
        reply = b"".join(right.receive(pending[index : index + 1]) for index in range(len(pending)))
        pending = b"".join(left.receive(reply[index : index + 1]) for index in range(len(reply)))
    assert left.agreed is not None
    assert right.agreed is not None


def test_a_client_with_another_key_learns_so() -> None:
    """The server proves first, so a client of another cluster knows at once."""
    with pytest.raises(WrongKey, match="does not have this cluster's key"):
        shake(client(key=b"x" * 32), server())


def test_a_client_that_goes_on_without_the_key_is_refused() -> None:
    """A forged proof ends the handshake with WRONG_KEY, and no device is named."""
    right = server()
    right.receive(client().start())
    reply = right.receive(frame(msgpack.packb((b"p" * 32,))))
    assert isinstance(right.error, WrongKey)
    assert right.agreed is None
    assert UUID not in reply


def test_a_replayed_proof_is_refused() -> None:
    """What a client said to a server once is worth nothing against the server's next nonce."""
    left, right = client(), server()
    hello = left.start()
    proof = left.receive(right.receive(hello))
    again = server(nonce=b"t" * 32)
    again.receive(hello)
    again.receive(proof)
    assert isinstance(again.error, WrongKey)


def test_a_replayed_server_is_refused() -> None:
    """What a server said to a client once is worth nothing against the client's next nonce."""
    challenge = server().receive(client().start())
    fresh = client(nonce=b"d" * 32)
    fresh.start()
    with pytest.raises(WrongKey):
        fresh.receive(challenge)


def test_a_reflected_proof_is_refused() -> None:
    """An impostor who sends a server's own proof back to it is refused: proofs name the role."""
    right = server()
    reply = right.receive(client().start())
    (payload,) = FrameReader(HANDSHAKE_BYTES_MAX).feed(reply)
    _signed, proof = msgpack.unpackb(payload)
    right.receive(frame(msgpack.packb((proof,))))
    assert isinstance(right.error, WrongKey)


def test_a_reflected_hello_proves_nothing() -> None:
    """An impostor without the key who has another server answer for it gets no further than that server's proof.

    A server that is given the client's own nonce as if it were a server's still makes another proof than a client's.
    """
    left = client()
    hello = left.start()
    impostor = server(nonce=CLIENT_NONCE)
    proof = left.receive(impostor.receive(hello))
    other = server(nonce=SERVER_NONCE)
    other.receive(hello)
    other.receive(proof)
    assert isinstance(other.error, WrongKey)


def test_a_changed_hello_is_noticed() -> None:
    """Whoever changes the device, the purpose or the epoch on the way makes the proofs fail."""
    left, right = client(), server()
    (payload,) = FrameReader(HANDSHAKE_BYTES_MAX).feed(left.start())
    hello = msgpack.unpackb(payload)
    hello[7] += 1
    with pytest.raises(WrongKey):
        left.receive(right.receive(frame(msgpack.packb(hello))))


def test_a_changed_verdict_is_noticed() -> None:
    """A verdict that the server did not give is not believed."""
    left, right = client(name="sdb"), server()
    reply = right.receive(left.receive(right.receive(left.start())))
    (payload,) = FrameReader(HANDSHAKE_BYTES_MAX).feed(reply)
    _signed, proof = msgpack.unpackb(payload)
    forged = msgpack.packb((msgpack.packb((0, "", UUID)), proof))
    with pytest.raises(WrongKey, match="verdict"):
        left.receive(frame(forged))


def test_ends_without_a_common_version_part() -> None:
    """Both say which versions they speak, whichever of the two is the older."""
    for versions in ((2, 3), (0, 0)):
        left, right = client(versions=versions), server()
        with pytest.raises(WrongVersion, match=r"versions 1 to 1 .* this client \d to \d"):
            shake(left, right)
        assert isinstance(right.error, WrongVersion)


def test_the_newest_common_version_is_spoken() -> None:
    """Of several versions that both speak the newest is agreed on."""
    left, right = client(versions=(1, 5)), server(versions=(2, 4))
    shake(left, right)
    assert left.agreed is not None
    assert left.agreed.version == 4


def test_an_unknown_device_is_told_to_the_proved_client_only() -> None:
    """The server says that it has no such device, but not before the client has proved itself."""
    left, right = client(name="sdz"), server()
    other = server()
    assert len(other.receive(client(name="sda").start())) == len(right.receive(left.start()))
    with pytest.raises(UnknownDevice, match="'sdz'"):
        shake(client(name="sdz"), server())


def test_a_device_that_was_replaced_is_noticed() -> None:
    """A client that means another device of the same name is told so."""
    with pytest.raises(UnknownDevice, match="uuid"):
        shake(client(device_uuid=b"v" * 16), server())


def test_a_busy_server_says_so() -> None:
    """Too many connections is a clear answer."""
    with pytest.raises(ServerBusy, match="come back"):
        shake(client(), server(busy="full; come back later"))


def test_a_client_must_wait_for_its_verdict() -> None:
    """Frames in the handshake's place are refused, before and after the verdict of a refusal."""
    right = server(busy="full")
    left = client()
    proof = left.receive(right.receive(left.start()))
    with pytest.raises(ProtocolError, match="before it was accepted"):
        right.receive(proof + frame(b"\xc0"))


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=4), st.booleans())
def test_garbage_raises_nothing_but_protocol_errors(payloads: list[bytes], framed: bool) -> None:
    """Neither end is brought down by what is not a handshake."""
    for end in (client(), server()):
        try:
            for payload in payloads:
                end.receive(frame(payload) if framed else payload)
        except (ProtocolError, HandshakeError):
            pass
        assert end.agreed is None


@given(st.integers(0), st.integers(1, 255), st.integers(0, 2))
def test_no_changed_byte_leads_to_an_agreement(where: int, flip: int, message: int) -> None:
    """Whichever byte is changed on the way (with a checksum made to fit), the two do not agree."""

    def spoil(data: bytes) -> bytes:
        (payload,) = FrameReader(HANDSHAKE_BYTES_MAX).feed(data)
        spoiled = bytearray(payload)
        spoiled[where % len(spoiled)] ^= flip
        return frame(spoiled)

    left, right = client(), server()
    try:
        said = left.start()
        said = right.receive(spoil(said) if message == 0 else said)
        said = left.receive(spoil(said) if message == 1 else said)
        said = right.receive(spoil(said) if message == 2 else said)
        if said:
            left.receive(said)
    except (ProtocolError, HandshakeError):
        pass
    assert left.agreed is None


def test_a_long_message_is_cut_off() -> None:
    """A stranger cannot make the server hold more than a handshake's bytes."""
    with pytest.raises(ProtocolError, match="at most"):
        server().receive(frame(b"x" * (HANDSHAKE_BYTES_MAX + 1)))


def test_a_short_key_is_refused() -> None:
    """A key that can be guessed is a mistake of the configuration."""
    with pytest.raises(ValueError, match="key of 3 bytes"):
        client(key=b"abc")
