"""What an app may call itself, and how foreign text is made safe to show."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.model.errors import NameInvalid
from appvss.model.names import NAME_LIMIT, REASON_LIMIT, check_name, printable


@pytest.mark.parametrize("name", ["a", "9", "postgres@main", "a/b.c_d:e+f-g", "x" * NAME_LIMIT])
def test_names_that_may_be_used(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "the app name is empty"),
        ("x" * (NAME_LIMIT + 1), f"the app name {'x' * 20!r}... has 65 characters, over 64"),
        ("-a", "the app name '-a' has a character that is not allowed"),
        ("a b", "the app name 'a b' has a character that is not allowed"),
        ("a\n", "the app name 'a\\n' has a character that is not allowed"),
        ("ä", "the app name 'ä' has a character that is not allowed"),
        ("\x1b[2J", "the app name '\\x1b[2J' has a character that is not allowed"),
    ],
)
def test_names_that_may_not(name: str, sentence: str) -> None:
    with pytest.raises(NameInvalid) as caught:
        check_name(name)
    assert str(caught.value) == sentence
    assert "letters" in caught.value.hint


@given(st.text())
def test_a_name_that_passes_is_safe_anywhere(name: str) -> None:
    with suppress(NameInvalid):
        assert check_name(name).isascii()
        assert name.isprintable()
        assert " " not in name


@given(st.text(max_size=2 * NAME_LIMIT))
def test_the_refusal_of_a_name_is_safe_to_print(name: str) -> None:
    with pytest.raises(NameInvalid) as caught:
        check_name(f"-{name}")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("  room ", "room"),
        ("two\nlines\tand tabs", "two lines and tabs"),
        ("\x1b[31mred\x07", "?[31mred?"),
        ("right\u202eleft", "right?left"),
        ("\ud800", "?"),
        ("ümläut ✓", "ümläut ✓"),
        ("", ""),
        ("x" * REASON_LIMIT, "x" * REASON_LIMIT),
        ("x" * (REASON_LIMIT + 1), "x" * (REASON_LIMIT - 3) + "..."),
    ],
)
def test_foreign_text_becomes_one_printable_line(text: str, line: str) -> None:
    assert printable(text) == line


@given(st.text(), st.integers(4, 20))
def test_whatever_it_was_it_is_printable_and_not_too_long(text: str, limit: int) -> None:
    line = printable(text, limit)
    assert line.isprintable()
    assert len(line) <= limit
    assert printable(line, limit) == line
