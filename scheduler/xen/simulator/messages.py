"""The messages of classes: each function that serves one says its signature in the datamodel's words.

    @message("VM.pause(vm: VM ref) -> void")
    def pause(call: Call, vm: Row) -> Steps: ...

References arrive as rows (`| null` where the reference to nothing is meant to be given: it arrives as None), sets of
references as lists of rows; references inside maps stay strings, since they may be another pool's. The function returns
the result, or is a generator that takes time and returns it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from scheduler.xen.simulator.schema import Type, parse_type

REQUIRED: Final = object()
"""The default of a parameter that has none."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a message."""

    name: str
    words: str
    type: Type
    default: Any = REQUIRED
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is served."""

    name: str
    """`Class.message`."""
    parameters: tuple[Parameter, ...]
    result: str
    serve: Callable[..., Any]
    asynchronous: bool
    """Whether `Async.Class.message` is served as well."""

    @property
    def required(self) -> int:
        """How many parameters must be given."""
        return sum(parameter.default is REQUIRED for parameter in self.parameters)


MESSAGES: Final[dict[str, Message]] = {}
_SIGNATURE = re.compile(r"(\w+\.\w+)\((.*)\) -> (.+)")
_PARAMETER = re.compile(r"(\w+): (.+?)( \| null)?(?: = (.+))?")


def message(signature: str, *, asynchronous: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as what serves a message."""
    match = _SIGNATURE.fullmatch(signature)
    assert match is not None, signature
    name, listed, result = match.groups()

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = tuple(_parameter(text) for text in re.split(r",\s+(?=\w+: )", listed) if text)
        assert name not in MESSAGES, name
        MESSAGES[name] = Message(name, parameters, result, function, asynchronous)
        return function

    return register


def _parameter(text: str) -> Parameter:
    match = _PARAMETER.fullmatch(text)
    assert match is not None, text
    name, words, null, default = match.groups()
    value = REQUIRED if default is None else ast.literal_eval(default)
    return Parameter(name, words, parse_type(words), value, null is not None)
