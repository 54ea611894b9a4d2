from __future__ import annotations

import grp
import os
import tomllib
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.broker.configuration import Configuration, load
from appvss.broker.configuration_reader import read_document, sections
from appvss.broker.configuration_text import reference
from appvss.broker.options import Kind
from appvss.broker.policy_options import RULE_KEYS, RULES_MOST, AppPolicyOptions, NamePattern, Users
from appvss.model.app import Requirement
from appvss.model.errors import ConfigurationInvalid
from appvss.model.toml_value import Refused
from appvss.service.toml_file import parse_file

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str) -> Path:
        path = tmp_path / "broker.toml"
        path.write_text(content)
        return path

    return write


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigurationInvalid) as caught:
        load(path)
    return caught.value.problems


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (NamePattern(), 3, "3 is an integer, not a text in quotation marks"),
        (NamePattern(), "", "the name is empty"),
        (NamePattern(), "x" * 65, "the name 'xxxxxxxxxxxxxxxxxxxx'... has 65 characters, over 64"),
        (NamePattern(), "*" * 65, "the name 'xxxxxxxxxxxxxxxxxxxx'... has 65 characters, over 64"),
        (NamePattern(), "a b*", "'a b*' has a character that no app's name has, nor is it * or ?"),
        (NamePattern(), "[ab]", "'[ab]' has a character that no app's name has, nor is it * or ?"),
        (NamePattern(), "-*", "'-*' has a character that no app's name has, nor is it * or ?"),
        (NamePattern(), "é*", "'é*' has a character that no app's name has, nor is it * or ?"),
        (NamePattern(), "a\n*", r"'a\n*' has a character that is not printable"),
        (Users(2), "root", "'root' is a text, not a list of users; write [\"postgres\", 1001]"),
        (Users(2), [], "the list has 0 users, not 1 to 2"),
        (Users(2), [1, 2, 3], "the list has 3 users, not 1 to 2"),
        (Users(2), [-1], "-1 is no number of a user: 0 to 4294967294"),
        (Users(2), [2**32 - 1], "4294967295 is no number of a user: 0 to 4294967294"),
        (Users(2), [True], "True is a boolean, not a user's number or name"),
        (Users(2), [["root"]], "['root'] is a list, not a user's number or name"),
        (Users(2), [date(2026, 1, 1)], "datetime.date(2026, 1, 1) is a date or a time, not a user's number or name"),
        (Users(2), ["no-such-user-here"], "there is no user 'no-such-user-here' on this machine"),
        (Users(2), [""], "there is no user '' on this machine"),
        (Users(2), ["\ud800"], r"'\ud800' has a character that is not printable"),
        (Users(2), [7, 7], "7 is user 7, who is there twice"),
        (Users(2), [0, "root"], "'root' is user 0, who is there twice"),
    ],
)
def test_what_a_rule_does_not_take(kind: Kind[object], value: object, problem: str) -> None:
    with pytest.raises(Refused) as caught:
        kind.read(value)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (NamePattern(), "orders-db", "orders-db"),
        (NamePattern(), "*", "*"),
        (NamePattern(), "?rders/*@h:1+2_", "?rders/*@h:1+2_"),
        (NamePattern(), "x" * 64, "x" * 64),
        (Users(3), [70, "root", 2**32 - 2], (0, 70, 2**32 - 2)),
    ],
)
def test_what_a_rule_takes_and_writes_back(kind: Kind[object], value: object, read: object) -> None:
    assert kind.read(value) == read
    assert kind.read(tomllib.loads(f"value = {kind.write(read)}")["value"]) == read


def test_every_key_of_a_rule_takes_effect(write: Write) -> None:
    path = write("""
        [[apps.policy]]
        name = "orders-db"
        requirement = "tolerated"
        order = 10
        freeze_timeout = "5s"
        hold_limit = "30s"
        uid = ["root", 70]
        present = true
        set_aside_after = 0
        watch_paths = false
        [[apps.policy]]
        name = "*"
        """)
    limits = {"freeze_timeout": timedelta(seconds=5), "hold_limit": timedelta(seconds=30)}
    first = AppPolicyOptions(
        "orders-db",
        Requirement.TOLERATED,
        10,
        **limits,
        uid=(0, 70),
        present=True,
        set_aside_after=0,
        watch_paths=False,
    )
    assert load(path).apps.policy == (first, AppPolicyOptions("*"))


def test_rules_may_be_written_in_one_line(write: Write) -> None:
    path = write('apps.policy = [{name = "a", order = 1}, {name = "b"}]')
    assert load(path).apps.policy == (AppPolicyOptions("a", order=1), AppPolicyOptions("b"))


RULE = "[[apps.policy]]\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            f"{RULE}order = 1\n",
            ["apps.policy rule 1, name: it is missing, and must be given"],
        ),
        (
            f'{RULE}name = "a"\n{RULE}name = "b c"\norder = 1.5\n',
            [
                "apps.policy rule 2, name: 'b c' has a character that no app's name has, nor is it * or ?",
                "apps.policy rule 2, order: 1.5 is a number, not a whole number",
            ],
        ),
        (
            f'{RULE}name = "a"\nordr = 1\n"x\\ny" = 2\n',
            [
                "apps.policy rule 1, ordr: there is no such key; did you mean apps.policy.order?",
                "apps.policy rule 1, x y: there is no such key",
            ],
        ),
        (
            f'{RULE}name = "a"\norder = 2147483648\nset_aside_after = 101\nhold_limit = 5\nrequirement = "no"\n',
            [
                "apps.policy rule 1, order: 2147483648 is not in -2147483648 to 2147483647",
                "apps.policy rule 1, set_aside_after: 101 is not in 0 to 100",
                'apps.policy rule 1, hold_limit: 5 is a limit without a unit; write "5s" or another unit: ms, s, m, h',
                'apps.policy rule 1, requirement: \'no\' is none of "required", "tolerated", "ignored"',
            ],
        ),
        (
            f'{RULE}name = "a"\nuid = ["no-such-user-here"]\n',
            ["apps.policy rule 1, uid: there is no user 'no-such-user-here' on this machine"],
        ),
        (
            '[apps.policy]\nname = "a"\n',
            ["apps.policy: this is a list of tables, each under a [[apps.policy]] of its own, and not a table"],
        ),
        (
            'apps.policy = ["a", {name = "b", order = true}]\n',
            [
                "apps.policy rule 1: this is a table, [[apps.policy]], and not a text",
                "apps.policy rule 2, order: True is a boolean, not a whole number",
            ],
        ),
        (
            f'{RULE}name = "a*"\npresent = true\n{RULE}name = "b?"\npresent = false\n',
            [
                'apps.policy rule 1, present: "a*" is a pattern; only an app with a whole name can be missed',
                'apps.policy rule 2, present: "b?" is a pattern; only an app with a whole name can be missed',
            ],
        ),
        (
            "[[apps.police]]\nname = 1\n",
            ["apps.police: there is no such key; did you mean apps.policy?"],
        ),
    ],
)
def test_every_problem_of_a_rule_is_named_with_its_number(write: Write, content: str, expected: list[str]) -> None:
    assert problems(write(content)) == tuple(expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            f'{RULE}name = "a"\nrequirement = "required"\n{RULE}name = "b"\norder = 2\n'
            f'{RULE}name = "a"\nrequirement = "ignored"\norder = 1\n',
            [
                'apps.policy rule 3, requirement: "ignored" for "a" contradicts rule 1, which says "required"; '
                "keep one of them"
            ],
        ),
        (
            f'{RULE}name = "a*"\nuid = [1, 2]\nhold_limit = "5s"\n{RULE}name = "a*"\nuid = [1]\nhold_limit = "60s"\n',
            [
                'apps.policy rule 2, hold_limit: "1m" for "a*" contradicts rule 1, which says "5s"; keep one of them',
                'apps.policy rule 2, uid: [1] for "a*" contradicts rule 1, which says [1, 2]; keep one of them',
            ],
        ),
        (
            f'{RULE}name = "a"\norder = 1\n{RULE}name = "a"\norder = 2\n{RULE}name = "a"\norder = 3\n',
            [
                'apps.policy rule 2, order: 2 for "a" contradicts rule 1, which says 1; keep one of them',
                'apps.policy rule 3, order: 3 for "a" contradicts rule 1, which says 1; keep one of them',
            ],
        ),
        (
            f'[apps]\nrequired = ["a"]\n{RULE}name = "a"\nrequirement = "tolerated"\npresent = false\n',
            [
                'apps.policy rule 1, requirement: "tolerated" for "a" contradicts apps.required, which names it; '
                "keep one of them",
                'apps.policy rule 1, present: false for "a" contradicts apps.required, which names it; '
                "keep one of them",
            ],
        ),
        (
            f'[apps]\nlimit = 2\nrequired = ["a", "b"]\n{RULE}name = "c"\npresent = true\n'
            f'{RULE}name = "b"\npresent = true\n',
            ["apps.limit: 2 is below the 3 apps that apps.required and apps.policy expect"],
        ),
    ],
)
def test_what_rules_say_against_each_other_is_a_problem(write: Write, content: str, expected: list[str]) -> None:
    assert problems(write(content)) == tuple(expected)


@pytest.mark.parametrize(
    "content",
    [
        f'{RULE}name = "a"\norder = 1\nuid = [0, 1]\n{RULE}name = "a"\norder = 1\nuid = [1, "root"]\n',
        f'{RULE}name = "a"\norder = 1\n{RULE}name = "a"\nrequirement = "ignored"\n',
        f'{RULE}name = "a"\norder = 1\n{RULE}name = "*"\norder = 2\n{RULE}name = "a*"\norder = 3\n',
        f'[apps]\nrequired = ["a"]\n{RULE}name = "a"\nrequirement = "required"\npresent = true\n',
        f'[apps]\nrequired = ["a"]\n{RULE}name = "a*"\nrequirement = "ignored"\n',
        f'[apps]\nlimit = 1\nrequired = ["a"]\n{RULE}name = "a"\npresent = true\n{RULE}name = "b"\norder = 1\n',
    ],
)
def test_rules_that_repeat_or_add_to_each_other_are_none(write: Write, content: str) -> None:
    assert load(write(content)).apps.policy


def test_rules_whose_names_are_wrong_do_not_contradict_each_other(write: Write) -> None:
    assert len(problems(write(f"{RULE}name = 1\norder = 1\n{RULE}name = 2\norder = 2\n"))) == 2


def test_a_contradiction_keeps_its_numbers_beside_a_rule_without_a_name(write: Write) -> None:
    found = problems(write(f'{RULE}order = 9\n{RULE}name = "a"\norder = 1\n{RULE}name = "a"\norder = 2\n'))
    assert found[1] == 'apps.policy rule 3, order: 2 for "a" contradicts rule 2, which says 1; keep one of them'


def test_the_most_rules_fit_into_a_file_and_one_more_is_refused(write: Write) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    head = f'[broker]\nsocket_group = "{group}"\n'
    body = (
        'requirement = "tolerated"\norder = -2147483648\nfreeze_timeout = "9.25s"\nhold_limit = "1h30m"\n'
        "uid = [1001, 1002, 1003, 1004]\nset_aside_after = 100\nwatch_paths = false\n"
    )
    rules = [f'{RULE}name = "{"x" * 58}-{number:05}"\n{body}' for number in range(RULES_MOST + 1)]
    assert len(load(write(head + "".join(rules[:-1]))).apps.policy) == RULES_MOST
    assert problems(write(head + "".join(rules))) == ("apps.policy: there are 501 of them, over 500",)


def test_the_reference_and_the_reader_know_the_same_keys_of_a_rule(write: Write) -> None:
    (section,) = [section for section in sections(Configuration) if section.most]
    assert (section.heading, section.most) == ("[[apps.policy]]", RULES_MOST)
    assert [option.key for option in section.options] == [f"apps.policy.{key}" for key in ("name", *RULE_KEYS)]
    page = reference().partition("\n## `[[apps.policy]]`\n")[2].partition("\n## ")[0]
    assert [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")] == ["name", *RULE_KEYS]
    assert "| `name` | name or pattern | must be given | " in page
    assert "| `order` | number | not given | " in page


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["name", *RULE_KEYS, "naming"]),
            st.one_of(st.integers(), st.booleans(), st.text(max_size=8), st.lists(st.integers(0, 9), max_size=3)),
            max_size=5,
        ),
        max_size=6,
    )
)
def test_every_rule_keeps_its_place_whatever_is_wrong_with_it(tables: list[dict[str, object]]) -> None:
    reading = read_document(Configuration, {"apps": {"policy": tables}})
    rules = reading.value.apps.policy
    assert len(rules) == len(tables)
    for number, (table, rule) in enumerate(zip(tables, rules, strict=True), 1):
        for key in ("name", *RULE_KEYS):
            place = f"apps.policy rule {number}, {key}"
            assert (place in reading.given) == (key in table and place not in reading.wrong)
            assert place in reading.given or getattr(rule, key) in (None, "")


def test_a_file_with_rules_is_read_as_toml_reads_it(write: Write) -> None:
    document = parse_file(write(f'{RULE}name = "a"\n{RULE}name = "b"\n'))
    assert [table["name"] for table in document["apps"]["policy"]] == ["a", "b"]
