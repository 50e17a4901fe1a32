"""The one `MetaData` that all tables of the scheduler stand in.

Claims, records and work have their tables beside the code that reads them; a migration must see all of them at once. So
each module of tables registers on this object and Alembic compares with it. Constraints are named by rule, since a
migration can only change what has a name, and SQLite would give none.
"""

from __future__ import annotations

from sqlalchemy import MetaData

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
