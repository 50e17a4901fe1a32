"""Pools' passwords at rest: sealed, in the database, under a key that all controllers share.

Problem: controllers must log in to pools after a restart without an operator, several of them share a database, and a
database is backed up, copied and looked into.

Idea: AES-256-GCM under a key derived (HKDF) from the cluster key, which every node has in a file of its own that only its
owner can read. The pool's id is authenticated along, so a sealed password cannot be moved to another pool's row.

Invariant: no password is in any record type, log line or answer; `open` is the only way to one.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Connection, delete, insert, select

from scheduler.errors import SchedulerError
from scheduler.records.tables import POOL_SECRETS

_NONCE_BYTES: Final = 12


class SecretUnreadable(SchedulerError):
    """The operator's: the cluster key is not the one that the pool's password was sealed with. Add the pool again."""


class PoolSecrets:
    """Passwords of pools by pool id."""

    def __init__(self, cluster_key: bytes) -> None:
        derived = HKDF(SHA256(), 32, None, b"ringstead pool passwords").derive(cluster_key)
        self._cipher = AESGCM(derived)

    def seal(self, connection: Connection, pool_id: str, password: str) -> None:
        """Keep the password of a pool, in place of an earlier one."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, password.encode(), pool_id.encode())
        self.forget(connection, pool_id)
        connection.execute(insert(POOL_SECRETS).values(pool_id=pool_id, sealed=sealed))

    def open(self, connection: Connection, pool_id: str) -> str:
        """The password of a pool. SecretUnreadable where there is none that this key opens."""
        query = select(POOL_SECRETS.c.sealed).where(POOL_SECRETS.c.pool_id == pool_id)
        sealed = connection.execute(query).scalar_one_or_none()
        if sealed is None:
            raise SecretUnreadable(f"pool {pool_id} has no password here; add it again")
        try:
            clear = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], pool_id.encode())
        except InvalidTag:
            raise SecretUnreadable(f"the password of pool {pool_id} was sealed with another cluster key") from None
        return clear.decode()

    def forget(self, connection: Connection, pool_id: str) -> None:
        """Remove it."""
        connection.execute(delete(POOL_SECRETS).where(POOL_SECRETS.c.pool_id == pool_id))
