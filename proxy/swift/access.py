"""Who may do what with a container: Swift's ACLs.

    X-Container-Read: .r:*,.rlistings,science:ada,art:*
    X-Container-Write: science:ada

An element is a referrer (`.r:*`, `.r:host`, `.r:.domain`, denied with `.r:-host`; the last that matches counts),
`.rlistings` (who reads by referrer may also list), or users: PROJECT:NAME, PROJECT:*, *:NAME, *:* (any user), PROJECT.
A container's ACL gives access to its objects, and to its listing; to change or delete the container, and anything of the
account, one must be its owner or an administrator.

Invariant: pure; an ACL that was stored damaged or by another hand grants nothing where it is not understood.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from proxy.model import Metadata
from proxy.users import User

ACL_BYTES_MAX = 4096
_REFERRER_SPELLINGS = (".r", ".ref", ".referer", ".referrer")


def clean_read_acl(value: str) -> str:
    """An ACL in its short form, checked. Raises ValueError."""
    elements: list[str] = []
    for raw in value.split(","):
        element = raw.strip()
        if not element:
            continue
        designator, colon, rest = (part.strip() for part in element.partition(":"))
        if not designator.startswith("."):
            elements.append(f"{designator}:{rest}" if colon else designator)
        elif designator == ".rlistings" and not colon:
            elements.append(designator)
        elif designator in _REFERRER_SPELLINGS and colon:
            elements.append(f".r:{_clean_referrer(rest, element)}")
        else:
            raise ValueError(f"unknown element {element!r} in an ACL")
    cleaned = ",".join(elements)
    if len(cleaned.encode("utf-8", "surrogateescape")) > ACL_BYTES_MAX:
        raise ValueError(f"an ACL has at most {ACL_BYTES_MAX} bytes")
    return cleaned


def clean_write_acl(value: str) -> str:
    """A write ACL, checked: users only, since anybody can forge a referrer. Raises ValueError."""
    cleaned = clean_read_acl(value)
    if any(element.startswith(".") for element in cleaned.split(",")):
        raise ValueError("referrers can't be given write access")
    return cleaned


def _clean_referrer(rest: str, element: str) -> str:
    minus, host = ("-", rest[1:].strip()) if rest.startswith("-") else ("", rest)
    if host.startswith("*") and host != "*":
        host = host[1:].strip()
    if not host or host == ".":
        raise ValueError(f"no host in {element!r} of an ACL")
    return minus + host


def user_granted(acl: str, user: User) -> bool:
    """Whether an ACL names the user."""
    if not acl:
        return False
    grants = {
        f"{user.project}:{user.name}",
        f"{user.project}:*",
        f"*:{user.name}",
        "*:*",
        user.project,
        user.account,
    }
    return any(element in grants for element in acl.split(","))


def referrer_granted(acl: str, referrer: bytes | None) -> bool:
    """Whether an ACL lets in whoever comes from a page of this address (None: from none)."""
    try:
        host = (urlsplit(referrer.decode("latin-1")).hostname or "") if referrer else ""
    except ValueError:
        host = ""
    allowed = False
    for element in acl.split(","):
        if not element.startswith(".r:"):
            continue
        pattern = element[3:]
        denies = pattern.startswith("-")
        pattern = pattern.removeprefix("-")
        if pattern == "*" or pattern == host or (pattern.startswith(".") and host.endswith(pattern)):
            allowed = not denies
    return allowed


def owns(user: User | None, account: str) -> bool:
    """Whether the account is the user's own, or one of all those that an administrator may act on."""
    return user is not None and (user.account == account or (user.admin and not account.startswith(".")))


def may_read(acl: str, user: User | None, referrer: bytes | None, *, listing: bool) -> bool:
    """Whether a container's read ACL lets this request read an object (or, `listing`, the container)."""
    if not acl:
        return False
    if user is not None and user_granted(acl, user):
        return True
    if referrer_granted(acl, referrer):
        return not listing or ".rlistings" in acl.split(",")
    return False


def may_write(acl: str, user: User | None) -> bool:
    """Whether a container's write ACL lets this user write its objects."""
    return user is not None and user_granted(acl, user)


def acl_of(metadata: Metadata, name: str) -> str:
    """An ACL out of a container's metadata."""
    return metadata.get(name, "")
