"""A long random walk through the dialect, beside a dictionary that does the same.

Invariant tested: whatever the order of requests, what the app answers is what a dictionary of keys, and one of uploads,
would answer. The seed is in the test's name.
"""

from __future__ import annotations

import base64
import hashlib
import random
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import pytest

from tests.proxy.s3.client import S3World

KEYS = ["a", "a/b", "a/b/c", "a/c", "a//", "b", "b/ä", "b+", "c d", "c%", "d/é/e", "z"]
PREFIXES = ["", "", "a", "a/", "a/b", "b", "q"]
DELIMITERS = ["", "", "/", "/b", "b"]


@dataclass
class Model:
    """The dictionary."""

    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[int, bytes]]] = field(default_factory=dict)

    def listing(self, prefix: str, delimiter: str) -> tuple[list[str], list[str]]:
        """Keys and common prefixes, in the order of their bytes."""
        keys, prefixes = [], []
        for key in sorted(self.objects, key=str.encode):
            if key.startswith(prefix):
                at = key.find(delimiter, len(prefix)) if delimiter else -1
                if at < 0:
                    keys.append(key)
                elif key[: at + len(delimiter)] not in prefixes:
                    prefixes.append(key[: at + len(delimiter)])
        return keys, prefixes


class Walk:
    """One walk."""

    def __init__(self, world: S3World, seed: int) -> None:
        self.client = world.main
        self.random = random.Random(seed)
        self.model = Model()

    def data(self) -> bytes:
        """Some bytes."""
        return self.random.randbytes(self.random.choice([0, 1, 100, 5000]))

    async def put(self) -> None:
        """Store an object."""
        key, data = self.random.choice(KEYS), self.data()
        assert (await self.client("PUT", "/bucket/" + key, data)).status == 200
        self.model.objects[key] = data

    async def get(self) -> None:
        """Read an object, or a range of it."""
        key = self.random.choice(KEYS)
        expected = self.model.objects.get(key)
        answer = await self.client("GET", "/bucket/" + key)
        assert answer.status == (404 if expected is None else 200)
        if expected:
            assert answer.body == expected
            start = self.random.randrange(len(expected))
            part = await self.client("GET", "/bucket/" + key, headers={"range": f"bytes={start}-{start + 50}"})
            assert (part.status, part.body) == (206, expected[start : start + 51])

    async def delete(self) -> None:
        """Delete an object."""
        key = self.random.choice(KEYS)
        assert (await self.client("DELETE", "/bucket/" + key)).status == 204
        self.model.objects.pop(key, None)

    async def delete_some(self) -> None:
        """Delete several."""
        keys = self.random.sample(KEYS, 3)
        body = f"<Delete>{''.join(f'<Object><Key>{key}</Key></Object>' for key in keys)}</Delete>".encode()
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        answer = await self.client("POST", "/bucket", body, {"content-md5": md5}, query="delete")
        assert answer.texts("Deleted/Key") == keys
        for key in keys:
            self.model.objects.pop(key, None)

    async def copy(self) -> None:
        """Copy an object, onto itself too."""
        source, target = self.random.choice(KEYS), self.random.choice(KEYS)
        headers = {"x-amz-copy-source": "bucket/" + quote(source), "x-amz-metadata-directive": "REPLACE"}
        answer = await self.client("PUT", "/bucket/" + target, headers=headers)
        assert answer.status == (200 if source in self.model.objects else 404)
        if source in self.model.objects:
            self.model.objects[target] = self.model.objects[source]

    async def begin(self) -> None:
        """Begin an upload."""
        key = self.random.choice(KEYS)
        answer = await self.client("POST", "/bucket/" + key, query="uploads")
        self.model.uploads[answer.text("UploadId") or ""] = (key, {})

    async def upload_part(self) -> None:
        """Upload a part of an upload in progress."""
        if self.model.uploads:
            upload_id = self.random.choice(sorted(self.model.uploads))
            key, parts = self.model.uploads[upload_id]
            number, data = self.random.randint(1, 3), self.data()
            query = f"partNumber={number}&uploadId={upload_id}"
            assert (await self.client("PUT", "/bucket/" + key, data, query=query)).status == 200
            parts[number] = data

    async def end_upload(self) -> None:
        """Complete or abort an upload."""
        if not self.model.uploads:
            return
        upload_id = self.random.choice(sorted(self.model.uploads))
        key, parts = self.model.uploads[upload_id]
        if parts and self.random.random() < 0.7:
            number = max(parts)  # one part, which as the last may be small
            etag = hashlib.md5(parts[number]).hexdigest()
            row = f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            body = f"<CompleteMultipartUpload>{row}</CompleteMultipartUpload>".encode()
            assert (await self.client("POST", "/bucket/" + key, body, query=f"uploadId={upload_id}")).status == 200
            self.model.objects[key] = parts[number]
        else:
            assert (await self.client("DELETE", "/bucket/" + key, query=f"uploadId={upload_id}")).status == 204
        del self.model.uploads[upload_id]

    async def list_objects(self) -> None:
        """List in pages, in one of the three spellings."""
        prefix, delimiter = self.random.choice(PREFIXES), self.random.choice(DELIMITERS)
        kind = self.random.choice(["v1", "v2", "versions"])
        base = f"encoding-type=url&max-keys={self.random.choice([1, 2, 5, 1000])}&prefix={quote(prefix, safe='')}"
        base += f"&delimiter={quote(delimiter, safe='')}" if delimiter else ""
        base += {"v1": "", "v2": "&list-type=2", "versions": "&versions"}[kind]
        row = "Version" if kind == "versions" else "Contents"
        keys: list[str] = []
        prefixes: list[str] = []
        query = base
        while True:
            page = await self.client("GET", "/bucket", query=query)
            assert page.status == 200, page
            new = [unquote(name) for name in page.texts(f"{row}/Key")]
            keys += new
            prefixes += [unquote(name) for name in page.texts("CommonPrefixes/Prefix")]
            if page.text("IsTruncated") == "false":
                break
            if kind == "v2":
                query = f"{base}&continuation-token={page.text('NextContinuationToken')}"
            elif kind == "versions":
                query = f"{base}&key-marker={quote(unquote(page.text('NextKeyMarker') or ''), safe='')}"
            else:
                query = f"{base}&marker={quote(unquote(page.text('NextMarker') or '') or new[-1], safe='')}"
        assert (keys, prefixes) == self.model.listing(prefix, delimiter)

    async def list_uploads(self) -> None:
        """List the uploads in progress."""
        answer = await self.client("GET", "/bucket", query="uploads")
        assert set(answer.texts("Upload/UploadId")) == set(self.model.uploads)
        assert answer.texts("Upload/Key") == sorted((key for key, _ in self.model.uploads.values()), key=str.encode)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_dialect_does_what_a_dictionary_does(world: S3World, seed: int) -> None:
    """150 random requests, each answered as the dictionary would."""
    walk = Walk(world, seed)
    steps = [walk.put] * 5 + [walk.get] * 3 + [walk.list_objects] * 3
    steps += [walk.delete, walk.delete_some, walk.copy, walk.begin, walk.upload_part, walk.upload_part, walk.end_upload]
    steps += [walk.list_uploads]
    for _ in range(150):
        await walk.random.choice(steps)()
