"""A configuration file as TOML: read whole, bounded, and refused with line and column."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

from appvss.model.errors import ConfigurationInvalid, ConfigurationUnreadable
from appvss.model.names import printable

FILE_LIMIT: Final = 256 * 1024
"""Bytes: a larger file is not a configuration."""
_PLACE: Final = re.compile(
    r"^(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$", re.DOTALL
)


def parse(path: Path, hint: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Args:
        path: the file.
        hint: what to do about its problems.

    Raises:
        ConfigurationUnreadable: the file is not there, may not be read, or is no regular file of a sensible size.
        ConfigurationInvalid: it is not TOML; the problem names line and column.
    """
    try:
        text = _content(path).decode()
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationInvalid(str(path), [f"line {line}: the file is not UTF-8 text"], hint) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationInvalid(str(path), [_toml_problem(str(error), text)], hint) from error
    except RecursionError as error:
        raise ConfigurationInvalid(str(path), ["the values are nested too deeply"], hint) from error
    except ValueError as error:  # what Python says to an integer of more than 4300 digits
        raise ConfigurationInvalid(str(path), ["a number has too many digits"], hint) from error


def _content(path: Path) -> bytes:
    hint = "Name a file that this user may read; `appvss agent sample ADAPTER` prints one to begin with."
    try:
        if path.exists() and not path.is_file():
            raise ConfigurationUnreadable(str(path), "it is not a regular file", hint)
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigurationUnreadable(str(path), (error.strerror or str(error)).lower(), hint) from error
    except ValueError as error:  # a zero byte in the name
        raise ConfigurationUnreadable(printable(str(path)), str(error), hint) from error
    if len(content) > FILE_LIMIT:
        raise ConfigurationUnreadable(str(path), f"it has more than {FILE_LIMIT} bytes", hint)
    return content


def _toml_problem(message: str, text: str) -> str:
    found = _PLACE.match(message)
    if found is None:
        return f"not TOML: {printable(message)}"
    lines = text.split("\n")
    line, column = found["line"] or len(lines), found["column"] or len(lines[-1]) + 1
    return f"line {line}, column {column}: {printable(found['what'][:1].lower() + found['what'][1:])}"
