"""Tests of bench.systems."""
