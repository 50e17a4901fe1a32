"""Expressions of `get_all_records_where`: `field "name_label" = "x" and not field "power_state" = "Halted"`, or `true`.

A recursive descent over four forms (`true`/`false`, a comparison, `not`, parentheses) joined by `and` and `or`, which is
what pools accept. Both sides of a comparison are a field or a quoted text; fields compare by their text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from scheduler.xen.simulator.database import Row
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.schema import ClassSchema

Matches = Callable[[Row], bool]
_TOKEN: Final = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|(\(|\)|=)|([A-Za-z_]+))')
_DEPTH_MAX: Final = 50


def parse_query(text: str, schema: ClassSchema) -> Matches:
    """The predicate of an expression. Raises Failure INVALID_VALUE when it is none."""
    parser = _Parser(text, schema)
    matches = parser.either(0)
    if parser.tokens:
        raise parser.failure()
    return matches


class _Parser:
    def __init__(self, text: str, schema: ClassSchema) -> None:
        self.text = text
        self.schema = schema
        self.tokens: list[str] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self.failure()
            self.tokens.append(match[0].strip())
            position = match.end()

    def failure(self) -> Failure:
        return Failure("INVALID_VALUE", "expr", self.text)

    def take(self) -> str:
        if not self.tokens:
            raise self.failure()
        return self.tokens.pop(0)

    def at(self, word: str) -> bool:
        if self.tokens and self.tokens[0].lower() == word:
            self.tokens.pop(0)
            return True
        return False

    def either(self, depth: int) -> Matches:
        left = self.both(depth)
        while self.at("or"):
            left = _or(left, self.both(depth))
        return left

    def both(self, depth: int) -> Matches:
        left = self.single(depth)
        while self.at("and"):
            left = _and(left, self.single(depth))
        return left

    def single(self, depth: int) -> Matches:
        if depth > _DEPTH_MAX:
            raise self.failure()
        if self.at("not"):
            negated = self.single(depth + 1)
            return lambda row: not negated(row)
        if self.at("("):
            inner = self.either(depth + 1)
            if not self.at(")"):
                raise self.failure()
            return inner
        if self.at("true"):
            return lambda row: True
        if self.at("false"):
            return lambda row: False
        left = self.side()
        if not self.at("="):
            raise self.failure()
        right = self.side()
        return lambda row: left(row) == right(row)

    def side(self) -> Callable[[Row], str]:
        if self.at("field"):
            name = _unquote(self.take()).replace("__", "_")
            if name not in self.schema.fields:
                raise self.failure()
            return lambda row: _text(row[name])
        token = self.take()
        if not token.startswith('"'):
            raise self.failure()
        text = _unquote(token)
        return lambda row: text


def _and(left: Matches, right: Matches) -> Matches:
    return lambda row: left(row) and right(row)


def _or(left: Matches, right: Matches) -> Matches:
    return lambda row: left(row) or right(row)


def _unquote(token: str) -> str:
    return re.sub(r"\\(.)", r"\1", token[1:-1]) if token.startswith('"') else token


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
