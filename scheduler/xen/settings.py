"""How one pool is reached and trusted.

Certificates are verified unless `verify` says otherwise, against the system's authorities, a file (`ca_file`), or the
SHA-256 of the certificates themselves (`fingerprints`): XCP-ng hosts come with certificates that they signed
themselves, so a pin for each host is what most pools need. The password shows in no repr.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

HOST = re.compile(r"[A-Za-z0-9._:%-]{1,255}")
FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class BadPoolSettings(ValueError):
    """A pool's settings make no sense: whose settings they are must change them. Says which and why."""


@dataclass(frozen=True)
class Address:
    """Where a host's XenAPI listens."""

    scheme: str
    host: str
    port: int

    def __post_init__(self) -> None:
        if not HOST.fullmatch(self.host):
            raise BadPoolSettings(f"{self.host[:80]!r} is no name or address of a host")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    @property
    def netloc(self) -> str:
        """`host:port`, with brackets round an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """An address from `https://host`, `http://host:port` or a bare host, which means https. `BadPoolSettings`
        otherwise."""
        try:
            parts = urlsplit(text if "//" in text else f"https://{text}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise BadPoolSettings(f"{text!r} is no address of a pool: {error}") from None
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            raise BadPoolSettings(f"{text!r} is no address of a pool; give https://HOST or https://HOST:PORT")
        return cls(parts.scheme, host, port or (443 if parts.scheme == "https" else 80))

    def beside(self, text: str) -> Address:
        """The address of another host of the same pool, which XenAPI names by its IP alone: same scheme, same port."""
        text = text.strip()
        if "//" in text:
            return Address.parse(text)
        bare = text.strip("[]")
        if bare.count(":") > 1 and not text.startswith("["):
            return Address(self.scheme, bare, self.port)
        try:
            parts = urlsplit(f"//{text}")
            return Address(self.scheme, parts.hostname or text, parts.port or self.port)
        except ValueError:
            raise BadPoolSettings(f"{text!r} is no address of a host") from None


@dataclass(frozen=True)
class PoolSettings:
    """One pool: name, addresses, login, trust, patience."""

    name: str
    """What Ringstead calls the pool."""
    addresses: tuple[Address, ...]
    """One host of the pool is enough: the others are learned. More help when that one is down at the start."""
    username: str
    password: str = field(repr=False)
    verify: bool = True
    """Whether certificates are verified. Without, anybody between here and the pool can read the password."""
    ca_file: str | None = None
    """A PEM file with the authorities to trust, instead of the system's."""
    fingerprints: tuple[str, ...] = ()
    """SHA-256 of the certificates to trust, in hexadecimal; then no authority is asked and no name compared."""
    connect_timeout_s: float = 5.0
    call_timeout_s: float = 60.0
    """For one call and its answer, all told."""
    task_timeout_s: float = 3600.0
    """For one asynchronous task (a clone, a migration), all told."""
    sessions: int = 6
    """How many calls may be under way at once."""

    def __post_init__(self) -> None:
        if not self.addresses:
            raise BadPoolSettings(f"pool {self.name}: no address is given")
        clean = tuple(pin.replace(":", "").strip().lower() for pin in self.fingerprints)
        for pin in clean:
            if not FINGERPRINT.fullmatch(pin):
                raise BadPoolSettings(f"pool {self.name}: {pin!r} is no SHA-256 fingerprint (64 hexadecimal digits)")
        object.__setattr__(self, "fingerprints", clean)
        for name in ("connect_timeout_s", "call_timeout_s", "task_timeout_s"):
            if not getattr(self, name) > 0:
                raise BadPoolSettings(f"pool {self.name}: {name} must be above zero")
        if self.sessions < 1:
            raise BadPoolSettings(f"pool {self.name}: sessions must be at least 1")
