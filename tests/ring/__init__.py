"""Tests of ring."""
