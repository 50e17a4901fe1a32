"""Checksums that the dialect itself computes or combines: of copies, of parts, of completed uploads."""

from __future__ import annotations
