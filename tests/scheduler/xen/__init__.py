"""Tests of the XenAPI driver, against simulated pools."""
