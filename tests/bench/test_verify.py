"""The check before the clock runs: a system that answers wrong is not measured."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from bench.dialects import SwiftDialect
from bench.load import WrongAnswerError
from bench.systems.base import SwiftAccess
from bench.verify import verify


class Liar:
    """Takes every PUT, and answers every GET with the same bytes."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as file:
                line = file.readline()
                while file.readline().strip():
                    pass
                if line.startswith(b"PUT"):
                    connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
                else:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETag: x\r\n\r\n!")


@pytest.fixture
def liar() -> Iterator[Liar]:
    """A system that lies."""
    found = Liar()
    yield found
    found.listener.close()


def test_a_system_that_answers_other_bytes_is_not_measured(liar: Liar):
    """Wrong bytes are an error, however quick they come."""
    with pytest.raises(WrongAnswerError, match="other bytes"):
        verify(liar.port, SwiftDialect(SwiftAccess("tk", "/v1/AUTH_a")))
