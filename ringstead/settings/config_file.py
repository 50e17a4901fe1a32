"""TOML to settings and back.

Problem: a key that is misspelt, or a number in quotes, must stop the start with one line that names file, key and value;
it must not surface hours later as a default that nobody chose.

Idea: the settings' own classes say what is allowed (type hints and the metadata of `setting`), so that there is one reader
and one writer for all of them. `render` gives a commented file; `parse(render(config))` is the same config (tested).

Invariant: whatever the file holds, the outcome is a checked config or a ConfigError of one line.
"""

from __future__ import annotations

import dataclasses
import os
import textwrap
import tomllib
import typing
from pathlib import Path
from typing import Any, TypeVar

from ringstead.errors import ConfigError
from ringstead.settings.config import ServiceConfig, config_class_of

CONFIG_FILE_BYTES_MAX = 1024**2
COMMENT_COLUMNS = 110

C = TypeVar("C", bound=ServiceConfig)


def load(config_class: type[C], path: Path) -> C:
    """Read and check a file; paths in it are relative to its folder. Raises ConfigError."""
    return parse(config_class, _read(path), base=path.resolve().parent, source=str(path))


def load_any(path: Path) -> ServiceConfig:
    """Read and check a file that says with `service = "…"` whose it is. Raises ConfigError."""
    text = _read(path)
    service = _document(text, str(path)).get("service")
    if not isinstance(service, str):
        raise ConfigError(f'{path}: there is no line service = "…" that says whose settings these are')
    return parse(config_class_of(service), text, base=path.resolve().parent, source=str(path))


def parse(config_class: type[C], text: str, *, base: Path, source: str) -> C:
    """Check a TOML text against a class. Raises ConfigError that begins with `source`."""
    document = _document(text, source)
    service = document.pop("service", config_class.service)
    if service != config_class.service:
        raise ConfigError(f"{source}: these are settings for {service!r}, not for {config_class.service!r}")
    hints = typing.get_type_hints(config_class)
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    for name in document:
        if name not in fields:
            raise ConfigError(f"{source}: unknown setting {name!r}{_suggestion(name, fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        where = f"{source}: {name}"
        value = _typed(document[name], hints[name], where) if name in document else field.default
        _check_limits(value, field, where)
        values[name] = _absolute(value, base)
    return config_class(**values)


def render(config: ServiceConfig, *, base: Path | None = None, defaults: bool = True) -> str:
    """The settings as a commented TOML file. Paths below `base`'s parent are written relative to `base`.

    Without `defaults` only what differs from the defaults is written, for files that are read more often than edited.
    """
    lines = [f'service = "{config.service}"']
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        text = literal(_relative(value, base))
        if not defaults and text == literal(field.default):
            continue
        lines.append("")
        lines += textwrap.wrap(
            field.metadata["text"], COMMENT_COLUMNS, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
        )
        lines.append(f"{field.name} = {text}")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(CONFIG_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(content) > CONFIG_FILE_BYTES_MAX:
        raise ConfigError(f"{path}: longer than {CONFIG_FILE_BYTES_MAX} bytes; that is no configuration")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8") from error


def _document(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{source}: {error}") from error


def _suggestion(name: str, known: typing.Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _typed(value: Any, hint: Any, where: str) -> Any:
    """The value as the field's type wants it, or a ConfigError that says what was expected."""
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, str) and value:
        return Path(value)
    if hint == (Path | None) and isinstance(value, str):
        return Path(value) if value else None
    if hint == tuple[str, ...] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ConfigError(f"{where}: expected {_EXPECTED[hint]}, got {value!r}")


_EXPECTED: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
    Path: "a path in quotes",
    Path | None: 'a path in quotes, or ""',
    tuple[str, ...]: "a list of texts in quotes",
}


def _check_limits(value: Any, field: dataclasses.Field[Any], where: str) -> None:
    minimum, maximum, choices = (field.metadata[key] for key in ("minimum", "maximum", "choices"))
    if choices and value not in choices:
        raise ConfigError(f"{where}: {value!r} is none of {', '.join(choices)}")
    if isinstance(value, float) and value != value:
        raise ConfigError(f"{where}: {value} is no number")
    if minimum is not None and value < minimum:
        raise ConfigError(f"{where}: {value} is below the least allowed, {minimum}")
    if maximum is not None and value > maximum:
        raise ConfigError(f"{where}: {value} is above the most allowed, {maximum}")


def _absolute(value: Any, base: Path) -> Any:
    """`base` is free of symbolic links, so that `..` may be reckoned away: shorter paths in logs and socket addresses."""
    return Path(os.path.normpath(base / value)) if isinstance(value, Path) else value


def _relative(value: Any, base: Path | None) -> Any:
    """Within the data directory paths are written relative, so that it can be moved."""
    if base is None or not isinstance(value, Path):
        return value
    if value.is_relative_to(base):
        return value.relative_to(base)
    if value.is_relative_to(base.parent):
        return Path("..") / value.relative_to(base.parent)
    return value


def literal(value: Any) -> str:
    """A value as TOML spells it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return _quoted("" if value is None else str(value))


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in escaped) + '"'
