"""Xen pools: the driver that speaks XenAPI to them, and a simulator that speaks it back."""
