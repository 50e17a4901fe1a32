"""Claims: what is claimed of each host, SR, project and server group.

There is no way back, as before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "claim_groups",
        sa.Column("group_id", sa.String(length=255), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_claim_groups")),
    )
    op.create_table(
        "claim_hosts",
        sa.Column("host_id", sa.String(length=255), nullable=False),
        sa.Column("memory_limit_mib", sa.BigInteger(), nullable=False),
        sa.Column("vcpus_limit", sa.BigInteger(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("memory_mib", sa.BigInteger(), nullable=False),
        sa.Column("vcpus", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("host_id", name=op.f("pk_claim_hosts")),
    )
    op.create_table(
        "claim_keys",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("asked", sa.LargeBinary(length=16), nullable=False),
        sa.Column("owners", sa.Text(), nullable=False),
        sa.Column("used_at_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_claim_keys")),
    )
    op.create_table(
        "claim_projects",
        sa.Column("project", sa.String(length=255), nullable=False),
        sa.Column("has_quota", sa.Boolean(), nullable=False),
        sa.Column("servers_max", sa.BigInteger(), nullable=True),
        sa.Column("vcpus_max", sa.BigInteger(), nullable=True),
        sa.Column("memory_mib_max", sa.BigInteger(), nullable=True),
        sa.Column("volumes_max", sa.BigInteger(), nullable=True),
        sa.Column("disk_bytes_max", sa.BigInteger(), nullable=True),
        sa.Column("servers", sa.BigInteger(), nullable=False),
        sa.Column("vcpus", sa.BigInteger(), nullable=False),
        sa.Column("memory_mib", sa.BigInteger(), nullable=False),
        sa.Column("volumes", sa.BigInteger(), nullable=False),
        sa.Column("disk_bytes", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project", name=op.f("pk_claim_projects")),
    )
    op.create_table(
        "claim_srs",
        sa.Column("sr_id", sa.String(length=255), nullable=False),
        sa.Column("limit_bytes", sa.BigInteger(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sr_id", name=op.f("pk_claim_srs")),
    )
    op.create_table(
        "claims",
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("role", sa.String(length=8), nullable=False),
        sa.Column("project", sa.String(length=255), nullable=False),
        sa.Column("host_id", sa.String(length=255), nullable=True),
        sa.Column("memory_mib", sa.BigInteger(), nullable=False),
        sa.Column("vcpus", sa.BigInteger(), nullable=False),
        sa.Column("group_id", sa.String(length=255), nullable=True),
        sa.Column("policy", sa.String(length=32), nullable=True),
        sa.Column("member_index", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("owner", "role", name=op.f("pk_claims")),
    )
    op.create_index(op.f("ix_claims_group_id"), "claims", ["group_id"], unique=False)
    op.create_index(op.f("ix_claims_key"), "claims", ["key"], unique=False)
    op.create_table(
        "claim_disks",
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("role", sa.String(length=8), nullable=False),
        sa.Column("disk_id", sa.String(length=255), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("sr_id", sa.String(length=255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner", "role"],
            ["claims.owner", "claims.role"],
            name=op.f("fk_claim_disks_owner_role"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("owner", "role", "disk_id", name=op.f("pk_claim_disks")),
    )
