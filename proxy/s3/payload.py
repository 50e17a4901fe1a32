"""A request's payload: framing removed, and everything that the client announced of it verified, in one pass.

Problem: an S3 client may announce its body's SHA-256 (signed), its MD5, one of five checksums in a header or behind the
body, its length without framing, and signatures of chunks. All must be checked before the object counts as stored, none
may make the body be read twice, and hashing at 1 GB/s must not stand in the way of the transfer.

Idea: `open_payload` reads the announcements and refuses what contradicts itself. `Payload` is then a `BodySource`: each
piece goes to the consumer at once, and to one lane of jobs that hash it beside (see `checksums.HashLane`). The last piece
is handed out only after every check has passed, so that not even a consumer that counts bytes can take a bad body for
whole.

Invariants:
- What `read` raises is an `S3Error` for the client, or the `BodyError` of a connection that broke; afterwards it raises
  the same again.
- `late_metadata` says what was verified, and only after the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from proxy.checksums import (
    DIGEST_BYTES,
    FAST_ALGORITHMS,
    S3_ALGORITHMS,
    Checksum,
    HashLane,
    HashPool,
    decode,
    encode,
    new_checksum,
)
from proxy.http.message import BodyReader, ClientDisconnected
from proxy.model import Metadata
from proxy.s3.chunked import AwsChunkedDecoder, ChunkEnd, ChunkSignatures, Event, Trailers
from proxy.s3.errors import S3Error
from proxy.s3.sigv4 import (
    PAYLOAD_KINDS,
    STREAMING_SIGNED,
    STREAMING_SIGNED_TRAILER,
    STREAMING_UNSIGNED_TRAILER,
    UNSIGNED,
    ChunkSigning,
)

EMPTY_SHA256: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_PREFIX: Final = b"x-amz-checksum-"
_OTHER_CHECKSUM_HEADERS: Final = frozenset(
    (b"x-amz-checksum-mode", b"x-amz-checksum-type", b"x-amz-checksum-algorithm")
)
_STREAMING: Final = frozenset((STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER))
_WITH_TRAILER: Final = frozenset((STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER))
_NO_METADATA: Final[Metadata] = {}


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the client says of its payload."""

    length: int | None
    """Without framing."""
    framed: bool
    """aws-chunked."""
    sha256: bytes | None
    """Of the payload, as signed."""
    md5: bytes | None
    """Content-MD5."""
    algorithm: str
    """Of the checksum that is given in a header or will be in a trailer; "" for none."""
    checksum: bytes | None
    """Its value; None where it comes in a trailer."""
    with_trailers: bool
    """Trailers may follow (and are signed, where chunks are)."""


def read_announcement(length: int | None, payload_kind: str, headers: Mapping[bytes, bytes]) -> Announcement:
    """What the headers say of a body with this Content-Length. Raises `S3Error` where that makes no sense."""
    framed = payload_kind in _STREAMING
    if framed:
        length = _decoded_length(headers)
    algorithm, checksum = _given_checksum(headers)
    trailer = headers.get(b"x-amz-trailer")
    if trailer is not None:
        if payload_kind not in _WITH_TRAILER:
            raise S3Error("InvalidRequest", "x-amz-trailer needs a payload of one of the -TRAILER kinds.")
        if algorithm:
            raise _more_than_one_checksum()
        algorithm = _announced_trailer(trailer)
    _check_sdk_algorithm(headers, algorithm)
    return Announcement(
        length=length,
        framed=framed,
        sha256=None if payload_kind in PAYLOAD_KINDS else bytes.fromhex(payload_kind),
        md5=content_md5(headers),
        algorithm=algorithm,
        checksum=checksum,
        with_trailers=payload_kind in _WITH_TRAILER,
    )


def content_md5(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The value of Content-MD5, 16 bytes; None without. Raises InvalidDigest."""
    given = headers.get(b"content-md5")
    if given is None:
        return None
    try:
        return decode("md5", given)
    except ValueError:
        raise S3Error("InvalidDigest", fields=(("Content-MD5", given.decode("latin-1")),)) from None


def _decoded_length(headers: Mapping[bytes, bytes]) -> int:
    given = headers.get(b"x-amz-decoded-content-length")
    if given is None:
        raise S3Error("MissingContentLength", "You must provide the x-amz-decoded-content-length HTTP header.")
    if not given.isdigit() or len(given) > 18:
        raise S3Error(
            "InvalidArgument",
            "x-amz-decoded-content-length must be a decimal number",
            fields=(("ArgumentName", "x-amz-decoded-content-length"), ("ArgumentValue", given.decode("latin-1"))),
        )
    return int(given)


def _more_than_one_checksum() -> S3Error:
    return S3Error(
        "InvalidRequest", "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
    )


def _given_checksum(headers: Mapping[bytes, bytes]) -> tuple[str, bytes | None]:
    """Algorithm and value of the x-amz-checksum-ALGORITHM header; ("", None) without one."""
    algorithm = ""
    checksum = None
    for name, value in headers.items():
        if name.startswith(_PREFIX) and name not in _OTHER_CHECKSUM_HEADERS:
            if algorithm:
                raise _more_than_one_checksum()
            algorithm = name[len(_PREFIX) :].decode("latin-1")
            if algorithm not in S3_ALGORITHMS:
                raise S3Error(
                    "InvalidRequest", "The algorithm type you specified in x-amz-checksum- header is invalid."
                )
            try:
                checksum = decode(algorithm, value)
            except ValueError:
                raise S3Error("InvalidRequest", f"Value for {name.decode()} header is invalid.") from None
    return algorithm, checksum


def _announced_trailer(trailer: bytes) -> str:
    """The algorithm that x-amz-trailer announces."""
    name = trailer.strip().lower()
    algorithm = name[len(_PREFIX) :].decode("latin-1")
    if not name.startswith(_PREFIX) or algorithm not in S3_ALGORITHMS:
        raise S3Error("InvalidRequest", "The value specified in the x-amz-trailer header is not supported")
    return algorithm


def _check_sdk_algorithm(headers: Mapping[bytes, bytes], algorithm: str) -> None:
    """Raises `S3Error` where x-amz-sdk-checksum-algorithm contradicts the checksum that comes."""
    given = headers.get(b"x-amz-sdk-checksum-algorithm")
    if given is None:
        return
    wanted = given.decode("latin-1").lower()
    if wanted not in S3_ALGORITHMS:
        raise S3Error(
            "InvalidRequest",
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types: "
            "[CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
        )
    if not algorithm:
        raise S3Error(
            "InvalidRequest",
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers "
            "were found.",
        )
    if wanted != algorithm:
        raise S3Error("InvalidRequest", "Value for x-amz-sdk-checksum-algorithm header is invalid.")


class _Examiner:
    """Hashes what passes by and compares it with what was announced. Knows no I/O; may run in a thread."""

    def __init__(
        self, announcement: Announcement, signatures: ChunkSignatures | None, check_md5: bool, compute: str
    ) -> None:
        self._announcement = announcement
        self._signatures = signatures
        self._sha256 = new_checksum("sha256") if announcement.sha256 is not None else None
        self._md5 = new_checksum("md5") if check_md5 and announcement.md5 is not None else None
        algorithm = announcement.algorithm or compute
        if algorithm == "sha256" and self._sha256 is not None:
            self._checksum: Checksum | None = self._sha256
        else:
            self._checksum = new_checksum(algorithm) if algorithm else None
        sums = {id(part): part for part in (self._sha256, self._md5, self._checksum) if part is not None}
        self._updates = [part.update for part in sums.values()]
        if signatures is not None:
            self._updates.append(signatures.update)
        self.is_idle = not self._updates
        """There is nothing to hash."""
        slow = [part for part in sums.values() if part.name not in FAST_ALGORITHMS]
        self.thread_worthy = bool(slow) or signatures is not None
        """Hashing takes so long that a thread pays for large pieces; CRCs are done before a thread would begin."""

    def take(self, events: list[Event]) -> None:
        """What came next. Raises `S3Error`."""
        for event in events:
            if isinstance(event, bytes):
                for update in self._updates:
                    update(event)
            elif isinstance(event, ChunkEnd) and self._signatures is not None:
                self._signatures.end_chunk(event.signature)

    def finish(self, trailers: Trailers | None) -> Metadata:
        """The end: compare everything. Raises `S3Error`; else what is worth remembering with the object."""
        announced = self._announcement
        expected = announced.checksum
        if trailers is not None:
            if announced.with_trailers and self._signatures is not None:
                self._signatures.end(trailers)
            expected = self._trailing_checksum(trailers) or expected
        if self._sha256 is not None and (digest := self._sha256.digest()) != announced.sha256:
            assert announced.sha256 is not None
            raise S3Error(
                "XAmzContentSHA256Mismatch",
                fields=(
                    ("ClientComputedContentSHA256", announced.sha256.hex()),
                    ("S3ComputedContentSHA256", digest.hex()),
                ),
            )
        if self._md5 is not None and (digest := self._md5.digest()) != announced.md5:
            assert announced.md5 is not None
            raise S3Error(
                "BadDigest",
                "The Content-MD5 you specified did not match what we received.",
                fields=(("ExpectedDigest", announced.md5.hex()), ("CalculatedDigest", encode(digest))),
            )
        if self._checksum is None:
            return _NO_METADATA
        digest = self._checksum.digest()
        if expected is not None and digest != expected:
            raise S3Error(
                "BadDigest", f"The {self._checksum.name.upper()} you specified did not match the calculated checksum."
            )
        return {f"checksum:{self._checksum.name}": encode(digest), "checksum:type": "FULL_OBJECT"}

    def _trailing_checksum(self, trailers: Trailers) -> bytes | None:
        """The checksum among the trailers: the one that was announced, and no other."""
        announced = self._announcement
        name = _PREFIX + announced.algorithm.encode()
        is_due = announced.algorithm != "" and announced.checksum is None
        if set(trailers.headers) != ({name} if is_due else set()):
            raise S3Error("MalformedTrailerError")
        if not is_due:
            return None
        try:
            return decode(announced.algorithm, trailers.headers[name])
        except ValueError:
            raise S3Error("InvalidRequest", f"Value for {name.decode()} trailing header is invalid.") from None


class Payload:
    """A request's payload as a `BodySource`."""

    __slots__ = (
        "_decoder",
        "_error",
        "_examiner",
        "_finished",
        "_lane",
        "_metadata",
        "_received",
        "_source",
        "announced",
    )

    def __init__(
        self, source: BodyReader, announced: Announcement, examiner: _Examiner, decoder: AwsChunkedDecoder | None,
        lane: HashLane,
    ) -> None:  # fmt: skip
        self._source = source
        self._examiner = examiner
        self._decoder = decoder
        self._lane = lane
        self._received = 0
        self._finished = False
        self._error: Exception | None = None
        self._metadata: Metadata = _NO_METADATA
        self.announced = announced

    @property
    def length(self) -> int | None:
        """Bytes without framing; None where the client did not say."""
        return self.announced.length

    @property
    def content_md5(self) -> bytes | None:
        """What Content-MD5 says, 16 bytes."""
        return self.announced.md5

    def late_metadata(self) -> Metadata:
        """`checksum:ALGORITHM` and `checksum:type`, once all was read."""
        return self._metadata

    async def read(self) -> bytes:
        """See `BodySource`; raises `S3Error` where the payload is not what was announced."""
        if self._error is not None:
            raise self._error
        if self._finished:
            return b""
        try:
            data = await self._next()
            self._received += len(data)
            if not data or self._received == self.announced.length:
                await self._complete()
        except Exception as error:
            self._error = error
            raise
        return data

    async def _next(self) -> bytes:
        """The next bytes of payload, handed to the examiner; b"" at the end."""
        decoder = self._decoder
        while True:
            raw = await self._source.read()
            if decoder is None or not raw:
                if raw and not self._examiner.is_idle:
                    await self._examine([raw], len(raw))
                return raw
            events = decoder.feed(raw)
            await self._examine(events, len(raw))
            pieces = [event for event in events if isinstance(event, bytes)]
            if pieces:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _examine(self, events: list[Event], size_bytes: int) -> None:
        examiner = self._examiner
        await self._lane.run(lambda: examiner.take(events), size_bytes if examiner.thread_worthy else 0)

    async def _complete(self) -> None:
        """All payload is there: read what framing and trailers are left, and make sure of everything."""
        trailers: Trailers | None = None
        if self._decoder is not None:
            while raw := await self._source.read():
                await self._examine(self._decoder.feed(raw), len(raw))
            trailers = self._decoder.end()
        elif self.announced.length is not None and self._received != self.announced.length:
            raise ClientDisconnected("the body ended early")
        await self._lane.wait()
        self._metadata = self._examiner.finish(trailers)
        self._finished = True


def open_payload(
    source: BodyReader,
    headers: Mapping[bytes, bytes],
    payload_kind: str,
    signing: ChunkSigning | None,
    access_key: str,
    pool: HashPool,
    *,
    check_md5: bool = True,
    compute: str = "",
) -> Payload:
    """The payload of a request. Raises `S3Error` where its headers make no sense.

    `payload_kind` is what was signed for it (`Claim.payload`), or UNSIGNED-PAYLOAD; then an x-amz-content-sha256 header
    still counts. `signing` is there if the head's signature was of version 4. `check_md5`: False where the consumer
    computes the MD5 anyway and compares it with `Payload.content_md5`. `compute`: a checksum that is wanted even if the
    client gives none.
    """
    if payload_kind == UNSIGNED:
        payload_kind = _checked_kind(headers.get(b"x-amz-content-sha256", UNSIGNED.encode()).decode("latin-1"))
    announced = read_announcement(source.length, payload_kind, headers)
    signatures = None
    decoder = None
    if announced.framed:
        assert announced.length is not None
        if payload_kind != STREAMING_UNSIGNED_TRAILER:
            if signing is None:
                raise S3Error("InvalidRequest", "A body of signed chunks needs an Authorization header of version 4.")
            signatures = ChunkSignatures(signing, access_key)
        decoder = AwsChunkedDecoder(announced.length, signatures is not None)
    return Payload(source, announced, _Examiner(announced, signatures, check_md5, compute), decoder, pool.lane())


def _checked_kind(given: str) -> str:
    """An x-amz-content-sha256 that no signature covers."""
    if given in PAYLOAD_KINDS:
        return given
    try:
        if len(bytes.fromhex(given)) == DIGEST_BYTES["sha256"]:
            return given
    except ValueError:
        pass
    raise S3Error(
        "InvalidArgument",
        "x-amz-content-sha256 must be UNSIGNED-PAYLOAD or a valid sha256 value.",
        fields=(("ArgumentName", "x-amz-content-sha256"), ("ArgumentValue", given)),
    )
