"""A configuration file: what is no TOML is refused with its place, what is no file of a sensible size is not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from appvss.model.errors import ConfigurationInvalid, ConfigurationUnreadable
from appvss.service.toml_file import FILE_LIMIT, parse_file


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a = \n", "line 1, column 5: invalid value"),
        ("[apps]\nlimit = 1\nlimit = 2\n", "line 3, column 10: cannot overwrite a value"),
        ("[apps]\n\n[broker\n", "line 3, column 8: expected ']' at the end of a table declaration"),
        ('[apps]\na = """x', "line 2, column 9: unterminated string"),
        (b"[apps]\n# \xff\n", "line 2: the file is not UTF-8 text"),
        ("a = " + "[" * 5000, "the values are nested too deeply"),
        ("a = " + "1" * 5000, "a number has too many digits"),
    ],
)
def test_a_file_that_is_not_toml_says_where(tmp_path: Path, content: str | bytes, problem: str) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigurationInvalid) as caught:
        parse_file(path, "Mend it.", "Find it.")
    assert (caught.value.problems, caught.value.hint) == ((problem,), "Mend it.")
    assert not isinstance(caught.value.__cause__, UnicodeDecodeError), "it has the whole file, with its secrets"


@pytest.mark.parametrize("path", [Path("/dev/null"), Path("/tmp"), Path("a\0b")])
def test_what_is_no_file_is_not_read(path: Path) -> None:
    with pytest.raises(ConfigurationUnreadable) as caught:
        parse_file(path, "Mend it.", "Find it.")
    assert caught.value.hint == "Find it."


def test_a_file_of_any_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "any.toml"
    path.write_text("#" * FILE_LIMIT)
    assert parse_file(path) == {}
    path.write_text("#" * (FILE_LIMIT + 1))
    with pytest.raises(ConfigurationUnreadable, match="more than 262144 bytes"):
        parse_file(path)
