"""GetObjectAttributes: what is known of an object, its parts included, without its data.

Source: API_GetObjectAttributes of the Amazon S3 API Reference.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.http.message import HeaderList, Response
from proxy.model import Metadata, ObjectInfo, Segment
from proxy.s3.call import Call
from proxy.s3.concurrency import for_each
from proxy.s3.copying import checksum_elements
from proxy.s3.dates import http_date
from proxy.s3.errors import invalid_argument
from proxy.s3.objects import DEGRADED, check_version
from proxy.s3.settings import LIST_KEYS_MAX, PART_NUMBER_MAX, S3Settings
from proxy.s3.upload_names import part_number_of
from proxy.s3.upload_store import UPLOAD_ID
from proxy.s3.xml import CONTENT_TYPE, document
from proxy.store import ObjectStore

_ATTRIBUTES = frozenset(("ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"))


class Attributes:
    """The operation GetObjectAttributes."""

    def __init__(self, store: ObjectStore, settings: S3Settings) -> None:
        self._store = store
        self._settings = settings

    async def get_attributes(self, call: Call) -> Response:
        """GetObjectAttributes."""
        check_version(call)
        wanted = _wanted(call.headers)
        info = await self._store.head_object(call.account, call.bucket, call.key)
        parts: list[str] = []
        if "ETag" in wanted:
            parts.append(f"<ETag>{info.etag}</ETag>")
        checksums = checksum_elements(info.metadata)
        if "Checksum" in wanted and checksums:
            parts.append(f"<Checksum>{checksums}</Checksum>")
        if "ObjectParts" in wanted and info.manifest is not None and UPLOAD_ID in info.metadata:
            parts.append(await self._parts(call, info, info.manifest.segments))
        if "StorageClass" in wanted:
            parts.append("<StorageClass>STANDARD</StorageClass>")
        if "ObjectSize" in wanted:
            parts.append(f"<ObjectSize>{info.size_bytes}</ObjectSize>")
        headers: HeaderList = [CONTENT_TYPE, (b"last-modified", http_date(info.modified_us))]
        if info.consistency.degraded:
            headers.append(DEGRADED)
        return Response(200, headers, document("GetObjectAttributesOutput", "".join(parts)))

    async def _parts(self, call: Call, info: ObjectInfo, segments: tuple[Segment, ...]) -> str:
        """The ObjectParts element: a page of the parts, with their checksums where they have some."""
        max_parts = _count(call.headers, b"x-amz-max-parts", LIST_KEYS_MAX, LIST_KEYS_MAX)
        after = _count(call.headers, b"x-amz-part-number-marker", PART_NUMBER_MAX, 0)
        numbered = [(part_number_of(segment.name, index), segment) for index, segment in enumerate(segments)]
        behind = [pair for pair in numbered if pair[0] > after]
        page = behind[:max_parts]
        checksums: dict[int, Metadata] = {}
        if any(name.startswith("checksum:") for name in info.metadata):

            async def look(pair: tuple[int, Segment]) -> None:
                number, segment = pair
                part = await self._store.head_object(segment.account, segment.container, segment.name)
                checksums[number] = part.metadata

            await for_each(page, look, self._settings.part_concurrency)
        rows = "".join(
            f"<Part><PartNumber>{number}</PartNumber><Size>{segment.size_bytes}</Size>"
            f"{checksum_elements(checksums.get(number, {}), with_type=False)}</Part>"
            for number, segment in page
        )
        truncated = len(behind) > len(page) > 0
        last = page[-1][0] if page else after
        return (
            f"<ObjectParts><IsTruncated>{'true' if truncated else 'false'}</IsTruncated><MaxParts>{max_parts}</MaxParts>"
            f"<NextPartNumberMarker>{last}</NextPartNumberMarker><PartNumberMarker>{after}</PartNumberMarker>"
            f"<PartsCount>{len(segments)}</PartsCount>{rows}</ObjectParts>"
        )


def _wanted(headers: Mapping[bytes, bytes]) -> frozenset[str]:
    """The attributes asked for. Raises InvalidArgument."""
    value = headers.get(b"x-amz-object-attributes", b"").decode("latin-1")
    wanted = frozenset(name.strip() for name in value.split(",") if name.strip())
    if not wanted or not wanted <= _ATTRIBUTES:
        raise invalid_argument("x-amz-object-attributes", value, "Invalid attribute name specified.")
    return wanted


def _count(headers: Mapping[bytes, bytes], name: bytes, limit: int, default: int) -> int:
    value = headers.get(name)
    if not value:
        return default
    if not value.isdigit() or len(value) > 10:
        raise invalid_argument(name.decode(), value.decode("latin-1"))
    return min(int(value), limit)
