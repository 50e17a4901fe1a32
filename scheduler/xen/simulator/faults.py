"""Faults that tests and operators order: which message, what happens to it, how often.

A rule matches methods by a shell pattern (`VM.start*`, `*`), optionally only as long as an argument contains a text (a
reference, say), and has one effect. The first that matches is used; a rule with a count is gone when used up.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

CUTS: Final = ("before", "during", "after")


class BadFault(ValueError):
    """A fault was ordered that makes no sense."""


@dataclass(slots=True)
class Rule:
    """One fault."""

    id: int
    method: str
    """A shell pattern of `Class.message`; asynchronous calls match by the same name, transfers as `http.import_raw_vdi`."""
    error: tuple[str, ...] = ()
    """The code and its parameters that are answered instead."""
    delay_s: float = 0.0
    """Time that passes before anything else."""
    cut: str = ""
    """The connection is closed before the call is carried out, after it without an answer, or during the answer."""
    hang: bool = False
    """No answer ever."""
    left: int | None = None
    """How often it will still happen; None is without end."""
    argument: str = ""
    """A text that one of the arguments has to contain."""

    def as_dict(self) -> dict[str, Any]:
        """For the control interface."""
        return {
            "id": self.id,
            "method": self.method,
            "error": list(self.error),
            "delay_s": self.delay_s,
            "cut": self.cut,
            "hang": self.hang,
            "left": self.left,
            "argument": self.argument,
        }


class Faults:
    """The faults ordered for one pool."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self.rules: list[Rule] = []

    def order(self, wish: Mapping[str, Any]) -> Rule:
        """Add a rule from its JSON. Raises BadFault naming what is wrong."""
        known = {"method", "error", "delay_s", "cut", "hang", "count", "argument"}
        if unknown := set(wish) - known:
            raise BadFault(f"unknown keys {sorted(unknown)}; a fault has {sorted(known)}")
        error = wish.get("error", [])
        if not isinstance(error, list) or not all(isinstance(part, str) for part in error):
            raise BadFault('"error" is a list of strings: a code and its parameters')
        cut = wish.get("cut", "")
        if cut and cut not in CUTS:
            raise BadFault(f'"cut" is one of {", ".join(CUTS)}')
        delay_s, count = wish.get("delay_s", 0.0), wish.get("count")
        if not isinstance(delay_s, int | float) or isinstance(delay_s, bool) or delay_s < 0:
            raise BadFault('"delay_s" is a number of seconds')
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise BadFault('"count" is how often it happens, 1 or more')
        if not (error or cut or delay_s or wish.get("hang")):
            raise BadFault('a fault needs one of "error", "delay_s", "cut" and "hang"')
        rule = Rule(
            next(self._ids),
            str(wish.get("method", "*")),
            tuple(error),
            float(delay_s),
            cut,
            bool(wish.get("hang", False)),
            count,
            str(wish.get("argument", "")),
        )
        self.rules.append(rule)
        return rule

    def cancel(self, rule_id: int | None = None) -> int:
        """Remove one rule, or all; how many were removed."""
        before = len(self.rules)
        self.rules = [] if rule_id is None else [rule for rule in self.rules if rule.id != rule_id]
        return before - len(self.rules)

    def take(self, method: str, arguments: Sequence[Any]) -> Rule | None:
        """The fault that this call meets, if any, counted as used."""
        for rule in self.rules:
            if not fnmatch.fnmatchcase(method, rule.method):
                continue
            if rule.argument and not any(rule.argument in str(argument) for argument in arguments):
                continue
            if rule.left is not None:
                rule.left -= 1
                if rule.left == 0:
                    self.rules.remove(rule)
            return rule
        return None
