"""Logs: events with keys and values; JSON lines in bounded files, readable text on a terminal.

Problem: logs must be there when something goes wrong, must not fill the disk, must not hold secrets, and must not cost
anything on the path of a request that goes right.

Idea: structlog with a filtering logger (a level that is off costs one call of an empty function), one process a file, and a
file that moves aside to FILE.1 when it is full, so two files of known size are all there ever is. A key whose name speaks
of secrets loses its value, whoever logged it. The standard library's warnings and loggers end in the same place.

Rejected: logrotate (a newcomer's data directory should need no cron), a logging thread (what was logged before a crash is
what matters most, and it would be what is lost).

Invariants: a log call never raises; a file never outgrows its bound by more than one line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, Processor, WrappedLogger

LINE_BYTES_MAX: Final = 64 * 1024
_SECRET_WORDS: Final = ("secret", "password", "token", "authorization", "credential", "cluster_key", "signature")
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class BoundedFile:
    """Appends lines to a file; a full one is renamed to FILE.1 and begun anew. Thread-safe."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def write(self, line: bytes) -> None:
        """Append a line (its end included). A full disk loses the line, never the caller."""
        with self._lock, contextlib.suppress(OSError):
            if self._size + len(line) > self._bytes_max and self._size:
                os.replace(self._path, self._path.with_name(self._path.name + ".1"))
                os.close(self._fd)
                self._open()
            self._size += os.write(self._fd, line)

    def close(self) -> None:
        """Not to be written to after this."""
        os.close(self._fd)

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size


class _Sink:
    """What structlog calls with a rendered line; every level is the same to it."""

    def __init__(self, name: str, write: Callable[[bytes], None]) -> None:
        self.name = name
        self._write = write

    def msg(self, line: str) -> None:
        content = line.encode("utf-8", "backslashreplace")
        self._write(content[:LINE_BYTES_MAX] + b"\n")

    log = debug = info = warn = warning = error = critical = fatal = exception = failure = err = msg


class _Forward(logging.Handler):
    """Takes what libraries log through the standard library."""

    def emit(self, record: logging.LogRecord) -> None:
        import structlog

        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        level = max(10, min(record.levelno // 10 * 10, 50))
        structlog.get_logger(record.name).log(level, message, exc_info=record.exc_info)


def set_up(service: str, level: str = "info", file: Path | None = None, bytes_max: int = 16 * 1024**2) -> None:
    """Send this process's logs to a file, or to standard error: as text if that is a terminal, else as JSON."""
    structlog = load_structlog()
    if file is not None:
        write = BoundedFile(file, bytes_max).write
    else:
        write = _write_stderr
    readable = file is None and sys.stderr.isatty()
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_origin(service),
        _hide_secrets,
    ]
    if readable:
        processors.append(structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback))
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=repr)]

    def make_sink(*arguments: Any) -> _Sink:
        return _Sink(str(arguments[0]) if arguments else "", write)

    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=make_sink,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def load_structlog() -> Any:
    """structlog, imported without rich, which it would load for trace-backs on terminals: 5 MB and 40 ms a process.

    To be called before anything else imports structlog.
    """
    if "rich" not in sys.modules and "structlog" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]
        try:
            import structlog
        finally:
            del sys.modules["rich"]
    import structlog

    return structlog


def _write_stderr(line: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(2, line)


def _add_origin(service: str) -> Processor:
    pid = os.getpid()

    def add(logger: WrappedLogger, _: str, event: EventDict) -> EventDict:
        event["service"] = service
        event["pid"] = pid
        if name := getattr(logger, "name", ""):
            event["logger"] = name
        return event

    return add


def _hide_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for key in event:
        if any(word in key.lower() for word in _SECRET_WORDS):
            event[key] = "(hidden)"
    return event
