"""Whom a request addresses: bucket and key, from host and path.

Problem: the same object has two addresses (`/bucket/key` and `bucket.host/key`), the path is percent-encoded, and keys
are any UTF-8 of up to 1,024 bytes: with double slashes, dots, empty segments, slashes at either end. None of that may be
normalised away, or what a client stored is not what it gets back.

Idea: cut at the first slash, decode percent-escapes once, check, and never look inside a key again.

Source: "Virtual hosting of buckets", "Bucket naming rules" and "Naming Amazon S3 objects" of the S3 User Guide.

Invariants:
- A key that comes out of here is valid UTF-8 of 1 to 1,024 bytes without NUL (NUL separates internal names).
- Bucket rules hold for creation only; any container that exists (Swift makes them freely) can be read under its name.
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import unquote_to_bytes

from proxy.model import CONTAINER_NAME_BYTES_MAX
from proxy.s3.errors import S3Error
from proxy.s3.settings import KEY_BYTES_MAX

_NUL, _PERCENT, _SLASH = b"\0%/"
"""As numbers: looking for a byte is several times faster than looking for bytes of length one."""
_BUCKET_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")
_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_RESERVED_PREFIXES = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_SUFFIXES = ("-s3alias", "--ol-s3", "--x-s3", "--table-s3", ".mrap")


def split_target(host: bytes | None, path: bytes, suffixes: tuple[str, ...]) -> tuple[bytes, bytes]:
    """Bucket and key that a request addresses; b"" for what it does not.

    `path` is as received. Raises S3Error for names that no bucket or key can have.
    """
    bucket = _bucket_of_host(host, suffixes) if host is not None else b""
    if bucket:
        return bucket, decode_key(path[1:])
    slash = path.find(b"/", 1)
    if slash < 0:
        return decode_bucket(path[1:]), b""
    if slash == 1:
        raise S3Error("InvalidBucketName", fields=(("BucketName", ""),))
    return decode_bucket(path[1:slash]), decode_key(path[slash + 1 :])


def host_bucket(host: bytes | None, suffixes: tuple[str, ...]) -> bytes | None:
    """The bucket that the host names; None where the path must tell."""
    return None if host is None else _bucket_of_host(host, suffixes) or None


@lru_cache(maxsize=1024)
def _bucket_of_host(host: bytes, suffixes: tuple[str, ...]) -> bytes:
    """The bucket in a Host header; b"" where it names the service (or something else) and the path must tell."""
    name = host.lower()
    if not name.endswith(b"]"):  # an IPv6 address without a port has colons of its own
        head, colon, port = name.rpartition(b":")
        if colon and port.isdigit():
            name = head
    for suffix in suffixes:
        tail = b"." + suffix.encode()
        if name.endswith(tail) and len(name) > len(tail):
            # Of two suffixes that fit (example.org and s3.example.org) the longer leaves the shorter bucket: no dots of
            # the service's own name in it.
            if any(name == other.encode() for other in suffixes):
                return b""
            longest = max((s for s in suffixes if name.endswith(b"." + s.encode())), key=len)
            return decode_bucket(name[: -len(longest) - 1])
    return b""


def decode_bucket(raw: bytes) -> bytes:
    """A bucket's name, percent-decoded and fit for looking up; b"" for none."""
    name = unquote_to_bytes(raw) if _PERCENT in raw else raw
    return check_bucket(name) if name else b""


def check_bucket(name: bytes) -> bytes:
    """The name itself, if a container may be called that. Raises InvalidBucketName."""
    if len(name) > CONTAINER_NAME_BYTES_MAX or _NUL in name or _SLASH in name or not (name.isascii() or _is_utf8(name)):
        raise S3Error("InvalidBucketName", fields=(("BucketName", name.decode("utf-8", "replace")),))
    return name


def decode_key(raw: bytes) -> bytes:
    """A key, percent-decoded and checked."""
    return check_key(unquote_to_bytes(raw) if _PERCENT in raw else raw)


def check_key(key: bytes) -> bytes:
    """The key itself, if a key may be that. Raises KeyTooLongError or InvalidURI."""
    if len(key) > KEY_BYTES_MAX:
        raise S3Error("KeyTooLongError", fields=(("Size", str(len(key))), ("MaxSizeAllowed", str(KEY_BYTES_MAX))))
    if not key.isascii() and not _is_utf8(key):
        raise S3Error("InvalidURI", "The key is not valid UTF-8.")
    if _NUL in key:
        raise S3Error("InvalidURI", "A key must not contain NUL.")
    return key


def check_new_bucket(name: bytes) -> None:
    """Raises InvalidBucketName unless the name satisfies the rules for buckets that are created."""
    text = name.decode("utf-8", "replace")
    if not _valid_new_bucket(text):
        raise S3Error("InvalidBucketName", fields=(("BucketName", text),))


def _valid_new_bucket(name: str) -> bool:
    if not 3 <= len(name) <= 63 or not _BUCKET_CHARS.issuperset(name):
        return False
    if name[0] not in _ALNUM or name[-1] not in _ALNUM:
        return False
    if ".." in name or ".-" in name or "-." in name:
        return False
    if name.startswith(_RESERVED_PREFIXES) or name.endswith(_RESERVED_SUFFIXES):
        return False
    return not _looks_like_ipv4(name)


def _looks_like_ipv4(name: str) -> bool:
    labels = name.split(".")
    return len(labels) == 4 and all(label.isdigit() and len(label) <= 3 for label in labels)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
