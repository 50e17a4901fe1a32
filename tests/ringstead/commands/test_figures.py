"""Figures for people."""

from __future__ import annotations

import pytest

from ringstead.commands.figures import age_text, parse_rate, rate_text, size_text
from ringstead.errors import UsageError


def test_sizes_ages_and_rates_are_short() -> None:
    """The largest unit that fits, and what is below it where that says something."""
    assert [size_text(size) for size in (0, 1023, 1536, 5 * 1024**3)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
    assert [age_text(age) for age in (0.4, 59, 60, 3_725, 90_000)] == ["0 s", "59 s", "1 min", "1 h 2 min", "1 d 1 h"]
    assert rate_text("device_bytes_per_s", 128 * 1024**2) == "128.0 MiB/s"
    assert [rate_text("rows_per_s", rate) for rate in (0.5, 2_000.0)] == ["0.5/s", "2,000/s"]


def test_rates_are_read_as_people_write_them() -> None:
    """Binary and decimal units, with and without what follows them."""
    for text, value in (("2000", 2_000), ("1.5k", 1_500), ("50MiB", 50 * 1024**2), ("50 MB/s", 50e6), ("0.5", 0.5)):
        assert parse_rate(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1", "fast", "1e3", "nan", "5 MiB per second"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    """With an example of one."""
    with pytest.raises(UsageError, match="write 2000"):
        parse_rate(text)
