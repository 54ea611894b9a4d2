"""A configuration file as TOML: read whole, bounded, and refused with line and column."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

from appvss.model.errors import CHECK_HINT, SAMPLE_HINT, ConfigurationInvalid, ConfigurationUnreadable
from appvss.model.names import printable

FILE_LIMIT: Final = 256 * 1024
"""Bytes: a larger file is not a configuration. Every list at its own limit fits in."""
_PLACE: Final = re.compile(
    r"^(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$", re.DOTALL
)


def parse_file(path: Path, check_hint: str = CHECK_HINT, sample_hint: str = SAMPLE_HINT) -> dict[str, Any]:
    """The tables of a TOML file.

    Args:
        path: the file.
        check_hint: what to do about its problems; the default is for the broker's file.
        sample_hint: what to do if it cannot be read.

    Raises:
        ConfigurationUnreadable: the file is not there, may not be read, or is no regular file of a sensible size.
        ConfigurationInvalid: it is not TOML; the problem names line and column.
    """
    try:
        text = _content(path, sample_hint).decode()
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = f"line {line}: the file is not UTF-8 text"
        raise ConfigurationInvalid(str(path), [problem], check_hint) from None  # it has the file, with its secrets
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationInvalid(str(path), [_toml_problem(str(error), text)], check_hint) from error
    except RecursionError as error:
        raise ConfigurationInvalid(str(path), ["the values are nested too deeply"], check_hint) from error
    except ValueError as error:  # what Python says to an integer of more than 4300 digits
        raise ConfigurationInvalid(str(path), ["a number has too many digits"], check_hint) from error


def _content(path: Path, hint: str) -> bytes:
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
