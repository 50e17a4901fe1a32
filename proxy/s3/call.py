"""One S3 request, authenticated and taken apart: what every operation is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from proxy.http.message import Request, Response
from proxy.model import Metadata
from proxy.s3.bodies import EmptyBody
from proxy.s3.errors import S3Error
from proxy.s3.payload import Payload
from proxy.s3.xml import DocumentTooLong, MalformedDocument, parse_async, read_body
from proxy.users import User

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


class Call:
    """An operation to do: who asks, of what, with which parameters and body.

    `account` is where the bucket is: the caller's own, unless an administrator reaches into another's.
    """

    __slots__ = (
        "account",
        "body",
        "bucket",
        "headers",
        "key",
        "operation",
        "parameters",
        "request",
        "user",
    )

    def __init__(
        self,
        request: Request,
        user: User,
        operation: str,
        bucket: bytes,
        key: bytes,
        parameters: Mapping[str, str],
        body: Payload | EmptyBody,
    ) -> None:
        self.request = request
        self.headers = request.headers
        self.user = user
        self.account = user.account
        self.operation = operation
        self.bucket = bucket
        self.key = key
        self.parameters = parameters
        self.body = body
        """The payload: framing removed, and checked against all that the client announced of it when read to its end."""

    @property
    def content_md5(self) -> bytes | None:
        """What Content-MD5 says, 16 bytes."""
        return self.body.content_md5 if isinstance(self.body, Payload) else None

    @property
    def late_metadata(self) -> Callable[[], Metadata] | None:
        """Gives the checksums of the body, once it is read; None where it has none."""
        return self.body.late_metadata if isinstance(self.body, Payload) and self.body.announced.algorithm else None

    @property
    def bucket_text(self) -> str:
        """The bucket's name, for documents."""
        return self.bucket.decode()

    @property
    def key_text(self) -> str:
        """The key, for documents."""
        return self.key.decode()

    async def document(self, root: str, bytes_max: int) -> Element:
        """The request's body as an XML document. Raises MalformedXML and its like."""
        try:
            text = await read_body(self.body, bytes_max)
            if not text:
                raise S3Error("MissingRequestBodyError")
            return await parse_async(text, root)
        except DocumentTooLong:
            raise S3Error(
                "MaxMessageLengthExceeded", fields=(("MaxMessageLengthBytes", str(bytes_max)),), close=True
            ) from None
        except MalformedDocument as error:
            raise S3Error("MalformedXML") from error


Operation: TypeAlias = Callable[[Call], Awaitable[Response]]
