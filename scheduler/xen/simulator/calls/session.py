"""Messages about sessions: login and logout. The checks that every other message begins with are in `dispatch`."""

from __future__ import annotations

import hmac
from typing import Final

from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.pool import Pool

SESSIONS_MAX: Final = 1000
"""Sessions of one user; the one that was idle longest goes when there are more, as in a real pool."""


def log_in(pool: Pool, host: Row, user: str, password: str, originator: str = "") -> Row:
    """A session. Raises Failure HOST_IS_SLAVE with the master's address, or SESSION_AUTHENTICATION_FAILED."""
    if pool.master is not host:
        raise Failure("HOST_IS_SLAVE", pool.master["address"])
    check_password(pool, user, password)
    return open_session(pool, host, originator)


def check_password(pool: Pool, user: str, password: str) -> None:
    """Raises Failure SESSION_AUTHENTICATION_FAILED."""
    account = pool.account
    same_user = hmac.compare_digest(user.encode(), account.user.encode())
    same_password = hmac.compare_digest(password.encode(), account.password.encode())
    if not (same_user and same_password):
        raise Failure("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")


def open_session(pool: Pool, host: Row, originator: str) -> Row:
    """A session for somebody whose right to it is established."""
    sessions = pool.database.rows("session")
    if len(sessions) >= SESSIONS_MAX:
        pool.database.remove(min(sessions, key=lambda session: session["last_active"]))
    return pool.database.add(
        "session",
        this_host=host.ref,
        last_active=pool.now(),
        validation_time=pool.now(),
        is_local_superuser=True,
        auth_user_name=pool.account.user,
        originator=originator,
        pool=False,
    )


def find_session(pool: Pool, reference: str) -> Row:
    """A session by its reference, noted as used now. Raises Failure SESSION_INVALID."""
    session = pool.database.find("session", reference)
    if session is None:
        raise Failure("SESSION_INVALID", reference)
    pool.database.set(session, last_active=pool.now())
    return session
