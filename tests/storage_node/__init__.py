"""Tests of storage_node."""
