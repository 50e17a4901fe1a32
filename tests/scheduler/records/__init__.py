"""Tests of the scheduler's records, in SQLite and PostgreSQL."""
