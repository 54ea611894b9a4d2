"""What is wrong in a file is shown shortly and without a password; what is right is written as it was read."""

from __future__ import annotations

import tomllib
from datetime import date, timedelta
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.model.duration import parse_duration
from appvss.model.toml_value import (
    Choice,
    Flag,
    Refused,
    carries_password,
    length_text,
    quoted,
    shown,
    text_of,
    toml_type,
)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (True, "a boolean"),
        (1, "an integer"),
        (1.5, "a number"),
        ("a", "a text"),
        ([], "a list"),
        ({}, "a table"),
        (date(2026, 1, 1), "a date or a time"),
    ],
)
def test_a_type_has_the_name_that_toml_gives_it(value: object, said: str) -> None:
    assert toml_type(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a\x1bb", "'a\\x1bb'"),
        ("x" * 200, "'" + "x" * 76 + "..."),
        pytest.param(10**5000, "a huge number", id="huge"),
        ("redis://user:secret@host", "a value with a password"),
        ("host=a password=secret", "a value with a password"),
    ],
)
def test_a_wrong_value_is_shown_shortly_and_without_a_password(value: object, said: str) -> None:
    assert shown(value) == said


def test_an_address_without_a_password_carries_none() -> None:
    assert not carries_password("redis://user@host:6379/0")


@given(st.text())
def test_a_quoted_text_is_read_back(text: str) -> None:
    assert tomllib.loads(f"a = {quoted(text)}") == {"a": text}


@pytest.mark.parametrize("text", ["0s", "15s", "2m", "1h", "250ms", "0.001ms", "1.5ms"])
def test_a_length_is_written_in_its_largest_unit(text: str) -> None:
    written = {"0.001ms": timedelta(microseconds=1), "1.5ms": timedelta(microseconds=1500), "0s": timedelta(0)}
    assert length_text(written[text] if text in written else parse_duration(text)) == text


@pytest.mark.parametrize("value", [7, "a\nb"])
def test_what_is_no_printable_text_is_refused(value: object) -> None:
    with pytest.raises(Refused):
        text_of(value)
    assert text_of("a b") == "a b"


def test_a_flag_is_true_or_false_and_nothing_else() -> None:
    assert [Flag().write(Flag().read(value)) for value in (True, False)] == ["true", "false"]
    with pytest.raises(Refused, match="'yes' is a text; write true or false"):
        Flag().read("yes")


def test_a_choice_is_one_of_its_words() -> None:
    choice = Choice(Colour)
    assert choice.allowed == '`"red"`, `"blue"`'
    assert choice.write(choice.read("red")) == '"red"'
    with pytest.raises(Refused, match="'green' is none of"):
        choice.read("green")
