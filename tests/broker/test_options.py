from __future__ import annotations

import tomllib
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.broker.options import (
    AbsolutePath,
    AppNames,
    Count,
    Kind,
    Length,
    PathPatterns,
    Word,
)
from appvss.model.duration import parse_duration
from appvss.model.source import SourceMode
from appvss.model.toml_value import Choice, Flag, Refused, length_text, quoted

LENGTH = Length(timedelta(seconds=1), timedelta(minutes=2), "the kernel gives no more")


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (LENGTH, 15, "15 is a limit without a unit"),
        (LENGTH, 1.5, "1.5 is a limit without a unit"),
        (LENGTH, "15", "'15' is a limit without a unit"),
        (LENGTH, "soon", "'soon' is not a length of time"),
        (LENGTH, "999999999d999999999d", "is not a length of time"),
        (LENGTH, "-5s", "'-5s' is not a length of time"),
        (LENGTH, True, "True is a boolean, not a text"),
        (LENGTH, "3m", "'3m' is over 2m: the kernel gives no more"),
        (LENGTH, "999ms", "'999ms' is below 1s"),
        (Count(1, 9), 0, "0 is not in 1 to 9"),
        (Count(1, 9), 10, "10 is not in 1 to 9"),
        pytest.param(Count(1, 9), 16**5000, "a huge number is not in 1 to 9", id="huge"),
        (Count(1, 9), True, "True is a boolean, not a whole number"),
        (Count(1, 9), "5", "'5' is a text, not a whole number"),
        (Choice(SourceMode), "on", '\'on\' is none of "required", "automatic", "off"'),
        (Choice(SourceMode), False, "False is a boolean, not a text"),
        (Choice((SourceMode.OFF,)), "required", "'required' is none of \"off\""),
        (Flag(), 1, "1 is an integer; write true or false, without quotation marks"),
        (Flag(), "true", "'true' is a text; write true or false, without quotation marks"),
        (Flag(), {}, "{} is a table; write true or false, without quotation marks"),
        (Flag(), date(2026, 1, 1), "is a date or a time; write true or false"),
        (AbsolutePath(), "run/appvss", "'run/appvss' is not an absolute path"),
        (AbsolutePath(), "", "'' is not an absolute path"),
        (AbsolutePath(), "/a\nb", "has a character that is not printable"),
        (AbsolutePath(), "/" + "x" * 1024, "has 1025 characters, over 1024"),
        (Word(), "two words", "the group name 'two words' has a character that is not allowed"),
        (AppNames(2), "orders-db", "'orders-db' is a text, not a list of names"),
        (AppNames(2), ["a", 1], "1 is an integer, not a text"),
        (AppNames(2), ["a", "b c"], "the app name 'b c' has a character that is not allowed"),
        (AppNames(2), ["a", "a"], "'a' is there twice"),
        (AppNames(2), ["a", "b", "c"], "the list has 3 names, over 2"),
        (PathPatterns(2), "/efi", "'/efi' is a text, not a list of patterns"),
        (PathPatterns(2), ["/efi", 1], "1 is an integer, not a text"),
        (PathPatterns(2), ["efi"], "'efi' is not an absolute path"),
        (PathPatterns(2), ["/efi", "/efi"], "'/efi' is there twice"),
        (PathPatterns(2), ["/a", "/b", "/c"], "the list has 3 patterns, over 2"),
    ],
)
def test_what_an_option_does_not_take(kind: Kind[object], value: object, problem: str) -> None:
    with pytest.raises(Refused) as caught:
        kind.read(value)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (LENGTH, "1m30s", timedelta(seconds=90)),
        (LENGTH, "1s", timedelta(seconds=1)),
        (LENGTH, "2m", timedelta(minutes=2)),
        (Count(1, 9), 1, 1),
        (Count(1, 9), 9, 9),
        (Choice(SourceMode), "off", SourceMode.OFF),
        (Choice((SourceMode.OFF,)), "off", SourceMode.OFF),
        (Flag(), True, True),
        (Flag(), False, False),
        (AbsolutePath(), "/run/appvss", Path("/run/appvss")),
        (Word(), "", ""),
        (Word(), "appvss", "appvss"),
        (AppNames(2), [], ()),
        (AppNames(2), ["b", "a"], ("b", "a")),
    ],
)
def test_what_an_option_takes_and_writes_back(kind: Kind[object], value: object, read: object) -> None:
    assert kind.read(value) == read
    assert kind.read(tomllib.loads(f"value = {kind.write(read)}")["value"]) == read


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_quoted_text_is_toml_and_means_itself(text: str) -> None:
    assert tomllib.loads(f"value = {quoted(text)}") == {"value": text}


@given(st.integers(0, 10**12).map(lambda count: timedelta(microseconds=count)))
def test_a_written_length_is_the_length(length: timedelta) -> None:
    assert parse_duration(length_text(length)) == length
