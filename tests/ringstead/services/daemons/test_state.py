"""What operators told the daemons, kept in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringstead.errors import ConfigError
from ringstead.services.daemons.state import DaemonState, Wish


def test_wishes_outlive_the_process(tmp_path: Path) -> None:
    """What was kept is read again; a daemon of which nothing was asked has no wish."""
    path = tmp_path / "daemons.json"
    wish = Wish(True, {"bytes_per_s": 0.5})
    DaemonState(path).keep("auditor", wish)
    DaemonState(path).keep("updater", Wish(True))
    assert DaemonState(path).of("auditor") == wish
    assert DaemonState(path).of("updater") == Wish(True)
    assert DaemonState(path).of("replicator") == Wish()


def test_daemons_of_other_versions_are_kept(tmp_path: Path) -> None:
    """A wish for a daemon that nobody runs now survives changes of the others."""
    path = tmp_path / "daemons.json"
    DaemonState(path).keep("daemon of the future", Wish(True))
    DaemonState(path).keep("auditor", Wish(True))
    DaemonState(path).keep("auditor", Wish())
    assert DaemonState(path).of("daemon of the future") == Wish(True)
    assert "auditor" not in path.read_text()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"version": 1}',
        '{"version": 2, "daemons": {}}',
        '{"version": 1, "daemons": {"auditor": {"paused": "no", "rates": {}}}}',
        '{"version": 1, "daemons": {"auditor": {"paused": true, "rates": {"bytes_per_s": -1}}}}',
        '{"version": 1, "daemons": {"auditor": {"paused": true, "rates": {"bytes_per_s": NaN}}}}',
    ],
)
def test_a_file_that_makes_no_sense_is_named(tmp_path: Path, content: str) -> None:
    """Daemons that somebody paused are not started because a file is damaged: the error says which file, and what to do."""
    path = tmp_path / "daemons.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"daemons\.json: .* remove it"):
        DaemonState(path)


def test_what_could_not_be_kept_has_not_changed(tmp_path: Path) -> None:
    """Without a folder to write to, the wish stays what it was."""
    state = DaemonState(tmp_path / "absent" / "daemons.json")
    with pytest.raises(OSError, match="absent"):
        state.keep("auditor", Wish(True))
    assert state.of("auditor") == Wish()
