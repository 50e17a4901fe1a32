"""What a pool answers when it will not: a code of the datamodel and its parameters.

One class, since clients tell failures apart by code; the parameters' order and number are part of the interface.
"""

from __future__ import annotations


class Failure(Exception):
    """A XenAPI error: `ErrorDescription` is the code followed by the parameters."""

    def __init__(self, code: str, *params: str) -> None:
        super().__init__(code, *params)
        self.code = code
        self.params = params

    @property
    def description(self) -> list[str]:
        """The code and the parameters, as a client reads them."""
        return [self.code, *self.params]

    def __str__(self) -> str:
        return f"{self.code}({', '.join(self.params)})"
