"""The tables of the scheduler's records. The claims' tables stand beside their own code, in the same metadata.

Text for enums and JSON for small collections: a row can be read by an operator with any SQL shell, and both databases agree.
There are no foreign keys between servers, volumes and tasks: what each refers to may be deleted first, in an order that the
lifecycle decides, and the reconciler, not a constraint, says what no longer fits together.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from scheduler.metadata import METADATA

_ID = String(64)
_NAME = String(255)

FLAVORS = Table(
    "flavors",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False, unique=True),
    Column("memory_mib", BigInteger, nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("disk_bytes", BigInteger, nullable=False),
    Column("required_traits", JSON, nullable=False),
    Column("forbidden_traits", JSON, nullable=False),
    Column("required_tags", JSON, nullable=False),
)
IMAGES = Table(
    "images",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("format", String(8), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("disk_bytes", BigInteger, nullable=False),
    Column("object_name", String(255), nullable=False),
    Column("checksum", String(64), nullable=False),
    Column("created_s", Float, nullable=False),
    Column("fault", Text, nullable=False),
)
POOLS = Table(
    "pools",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False, unique=True),
    Column("url", String(1024), nullable=False),
    Column("user", _NAME, nullable=False),
    Column("verify", Text, nullable=False),
    Column("region", Integer, nullable=False),
    Column("zone", Integer, nullable=False),
    Column("created_s", Float, nullable=False),
)
POOL_SECRETS = Table(
    "pool_secrets",
    METADATA,
    Column("pool_id", _ID, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)
HOSTS = Table(
    "hosts",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("pool_id", _ID, nullable=False, index=True),
    Column("device_id", Integer, nullable=False),
    Column("name", _NAME, nullable=False),
    Column("node", _NAME, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("maintenance", Boolean, nullable=False),
    Column("vcpu_ratio", Float, nullable=False),
)
SRS = Table(
    "srs",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("pool_id", _ID, nullable=False, index=True),
    Column("device_id", Integer, nullable=False),
    Column("name", _NAME, nullable=False),
    Column("node", _NAME, nullable=False),
    Column("enabled", Boolean, nullable=False),
)
GROUPS = Table(
    "server_groups",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("project", _NAME, nullable=False),
    Column("policy", String(32), nullable=False),
    UniqueConstraint("project", "name"),
)
SERVERS = Table(
    "servers",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("project", _NAME, nullable=False),
    Column("state", String(16), nullable=False),
    Column("memory_mib", BigInteger, nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("disk_bytes", BigInteger, nullable=False),
    Column("disk_id", _ID, nullable=False),
    Column("flavor", _NAME, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("image_id", _ID, nullable=False),
    Column("template", _NAME, nullable=False),
    Column("zone", String(32), nullable=False),
    Column("group_id", _ID, nullable=False, index=True),
    Column("member_index", Integer, nullable=False),
    Column("pool_id", _ID, nullable=False),
    Column("host_id", _ID, nullable=False, index=True),
    Column("network", _NAME, nullable=False),
    Column("fault", Text, nullable=False),
    Column("options", JSON, nullable=False),
    UniqueConstraint("project", "name"),
)
SNAPSHOTS = Table(
    "snapshots",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("server_id", _ID, nullable=False, index=True),
    Column("volume_id", _ID, nullable=False, index=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("pool_id", _ID, nullable=False),
    Column("created_s", Float, nullable=False),
)
VOLUMES = Table(
    "volumes",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("project", _NAME, nullable=False),
    Column("state", String(16), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("type", _NAME, nullable=False),
    Column("zone", String(32), nullable=False),
    Column("sr_id", _ID, nullable=False),
    Column("pool_id", _ID, nullable=False),
    Column("server_id", _ID, nullable=False, index=True),
    Column("device", String(16), nullable=False),
    Column("image_id", _ID, nullable=False),
    Column("fault", Text, nullable=False),
    UniqueConstraint("project", "name"),
)
TASKS = Table(
    "tasks",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(32), nullable=False),
    Column("stage", String(32), nullable=False),
    Column("subject", _ID, nullable=False),
    Column("project", _NAME, nullable=False),
    Column("state", String(8), nullable=False),
    Column("data", JSON, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("not_before_s", Float, nullable=False),
    Column("lease_owner", _ID, nullable=False),
    Column("lease_until_s", Float, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("cancelled", Boolean, nullable=False),
    Column("progress", Float, nullable=False),
    Column("error", Text, nullable=False),
    Column("finished_s", Float, nullable=False),
    Index("ix_tasks_state_not_before", "state", "not_before_s"),
    Index("ix_tasks_subject_state", "subject", "state"),
    sqlite_autoincrement=True,
)
