"""Tests of proxy/swift."""
