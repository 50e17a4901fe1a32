"""Tests of scheduler.xen.simulator."""
