"""How the commands for servers and volumes print."""

from __future__ import annotations

import json

import click
import pytest

from ringstead.commands.cloud.client import LIMIT, SIZE, say, show_list, state_text

POOLS = [{"id": "0123456789", "name": "west", "hosts": 3}, {"id": "9876543210", "name": "east", "hosts": 12}]


def test_a_list_is_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """A column is a property, or what is made of the thing; numbers are aligned to the right."""
    show_list(
        POOLS, {"ID": lambda each: each["id"][:3], "NAME": "name", "HOSTS": "hosts"}, right=["HOSTS"], as_json=False
    )
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["ID", "NAME", "HOSTS"]
    assert [row.split() for row in rows] == [["012", "west", "3"], ["987", "east", "12"]]
    assert {len(row.rstrip()) for row in (heading, *rows)} == {len(heading.rstrip())}


def test_a_list_is_whole_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` leaves nothing out and shortens nothing, in the same order."""
    show_list(POOLS, {"ID": lambda each: each["id"][:3]}, as_json=True)
    assert json.loads(capsys.readouterr().out) == POOLS


def test_an_answer_is_a_line_or_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """People read a sentence, programs what the controller said."""
    say({"pool": POOLS[0]}, "pool west is there", as_json=False)
    assert capsys.readouterr().out == "pool west is there\n"
    say({"pool": POOLS[0]}, "pool west is there", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"pool": POOLS[0]}


def test_a_state_says_what_is_being_done() -> None:
    """A thing that is at rest has its state alone."""
    assert state_text({"state": "active", "task": None}) == "active"
    assert state_text({"state": "active", "task": {"verb": "migrate"}}) == "active (migrate)"


def test_a_limit_may_be_none() -> None:
    """-1 lifts a quota of bytes as it lifts one of servers; it is no size of a disk."""
    assert [LIMIT.convert(text, None, None) for text in ("-1", "0", "2G")] == [-1, 0, 2 << 30]
    with pytest.raises(click.BadParameter, match="no size"):
        SIZE.convert("-1", None, None)
    with pytest.raises(click.BadParameter, match="no size"):
        LIMIT.convert("-2", None, None)
