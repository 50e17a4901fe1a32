"""The tables that claims are kept in.

One row for each host and SR with its limit and the sum of its claims, kept with the claims themselves in one
transaction: a commit reads a handful of rows, not two hundred thousand. One row for each project and one for each
server group, so that changes in either meet in a row that can be compared by its generation. `scheduler.claims.sums`
computes all sums anew.

Identifiers are text, sizes 64-bit integers; times are seconds since 1970.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from scheduler.metadata import METADATA

_ID = String(255)

HOSTS = Table(
    "claim_hosts",
    METADATA,
    Column("host_id", _ID, primary_key=True),
    Column("memory_limit_mib", BigInteger, nullable=False),
    Column("vcpus_limit", BigInteger, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("memory_mib", BigInteger, nullable=False),
    Column("vcpus", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
)
"""A host's limit and what is claimed of it."""

SRS = Table(
    "claim_srs",
    METADATA,
    Column("sr_id", _ID, primary_key=True),
    Column("limit_bytes", BigInteger, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
)
"""An SR's limit and what is claimed of it."""

PROJECTS = Table(
    "claim_projects",
    METADATA,
    Column("project", _ID, primary_key=True),
    Column("has_quota", Boolean, nullable=False),
    Column("servers_max", BigInteger),
    Column("vcpus_max", BigInteger),
    Column("memory_mib_max", BigInteger),
    Column("volumes_max", BigInteger),
    Column("disk_bytes_max", BigInteger),
    Column("servers", BigInteger, nullable=False),
    Column("vcpus", BigInteger, nullable=False),
    Column("memory_mib", BigInteger, nullable=False),
    Column("volumes", BigInteger, nullable=False),
    Column("disk_bytes", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
)
"""A project's quota (NULL is no limit) and what it holds. Without `has_quota` the default quota is its own."""

GROUPS = Table(
    "claim_groups",
    METADATA,
    Column("group_id", _ID, primary_key=True),
    Column("generation", BigInteger, nullable=False),
)
"""Counts the changes of a server group's claims."""

CLAIMS = Table(
    "claims",
    METADATA,
    Column("owner", _ID, primary_key=True),
    Column("role", String(8), primary_key=True),
    Column("project", _ID, nullable=False),
    Column("host_id", _ID),
    Column("memory_mib", BigInteger, nullable=False),
    Column("vcpus", BigInteger, nullable=False),
    Column("group_id", _ID, index=True),
    Column("policy", String(32)),
    Column("member_index", Integer, nullable=False),
    Column("key", _ID, nullable=False, index=True),
)
"""Who holds what of which host; `key` is the idempotency key that it was claimed under."""

DISKS = Table(
    "claim_disks",
    METADATA,
    Column("owner", _ID, primary_key=True),
    Column("role", String(8), primary_key=True),
    Column("disk_id", _ID, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("sr_id", _ID, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    ForeignKeyConstraint(["owner", "role"], ["claims.owner", "claims.role"], ondelete="CASCADE"),
)
"""The disks of a claim, in their order."""

KEYS = Table(
    "claim_keys",
    METADATA,
    Column("key", _ID, primary_key=True),
    Column("asked", LargeBinary(16), nullable=False),
    Column("owners", Text, nullable=False),
    Column("used_at_s", Float, nullable=False),
)
"""Idempotency keys: a digest of what was asked, and whose claims it made (a JSON list)."""
