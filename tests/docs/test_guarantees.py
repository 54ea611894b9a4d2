"""docs/guarantees.md: each promise names the tests that show it, those are there, and no invariant is left out."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Final

import pytest

from appvss.broker.gates import SETTLE_LIMIT
from appvss.cycle import invariants
from appvss.cycle.ending import INSPECTION_LIMIT
from appvss.cycle.journaling import JOURNAL_LIMIT
from appvss.cycle.state import ANSWER_MARGIN
from appvss.delivery.admin_service import FORCE_THAW_LIMIT
from appvss.delivery.registry import MESSAGE_EVERY, MESSAGES_AT_ONCE
from appvss.history.directory import DAMAGED_KEPT
from appvss.history.entrance import COPY_LIMIT
from appvss.history.store import WAITING_LIMIT
from appvss.service.log import RING_LIMIT
from appvss.sources.wire.freebsd import LAST_MOMENT
from appvss.witness.fingerprint import DEPTH_LIMIT, ENTRIES_LIMIT
from appvss.witness.witness import ENTRIES_LIMIT_IN_ALL
from tests.docs.tables import ROOT, page, rows, section

PAGE: Final = "guarantees.md"
GROUPS: Final = (
    "## Nothing stays frozen",
    "## The verdict is true",
    "## The freeze is short",
    "## While anything is held, nothing is written",
    "## What survives what",
    "## What is checked after every step",
)
ROWS: Final = [row for group in GROUPS for row in rows(section(PAGE, group))]
TEST: Final = r"`(tests/[\w/]+\.py)::(\w+)`"
BY_LINT: Final = "`make lint`"
"""A line of the contract that says this is shown by that, and by no test."""


@cache
def names_in(file: str) -> frozenset[str]:
    """The names of a file's tests: functions, those in classes, and state machines (`TestX = X.TestCase`)."""
    return frozenset(_names(ast.parse((ROOT / file).read_text(encoding="utf-8"))))


def _names(tree: ast.Module | ast.ClassDef) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield from _names(node)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr == "TestCase":
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def words(text: str) -> str:
    """A sentence on one line and without its full stop, so that two writings of it can be compared."""
    return " ".join(text.split()).rstrip(".;")


def test_every_table_is_in_one_of_the_groups() -> None:
    assert rows(page(PAGE)) == ROWS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: words(row[0])[:60])
def test_every_promise_has_a_limit_and_tests_that_are_there(row: list[str]) -> None:
    _promise, limit, shown = row
    assert limit
    named = re.findall(TEST, shown)
    assert named
    assert re.sub(TEST, "", shown).split() == [], "nothing but tests, without their parameters"
    assert len(set(named)) == len(named)
    for file, name in named:
        assert name in names_in(file), f"{file} has no {name}"
        assert name.lower().startswith("test")


def test_every_invariant_is_there_word_for_word_and_no_other() -> None:
    text = inspect.getdoc(invariants) or ""
    bullets = [words(bullet) for bullet in re.findall(r"^- (.+?)(?=^- |\n\n)", text, re.MULTILINE | re.DOTALL)]
    # What follows the first sentence of one is its limit.
    stated = [bullet.partition(". ")[0] for bullet in bullets]
    assert [words(promise) for promise, *_ in rows(section(PAGE, GROUPS[-1]))] == stated


def test_every_line_of_the_contract_is_promised() -> None:
    lines = re.findall(
        r"^- \*\*(.+?)\*\*(.+?)(?=^- |\Z)", section("map.md", "## The contract"), re.MULTILINE | re.DOTALL
    )
    assert len(lines) >= 5
    promises = [promise.lower() for promise, *_ in ROWS]
    for name, meaning in lines:
        if BY_LINT not in meaning:
            assert [promise for promise in promises if words(name).lower() in promise], f"no promise says: {name}"


def length(time: timedelta) -> str:
    seconds = time.total_seconds()
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


@pytest.mark.parametrize(
    ("beginning", "bounds"),
    [
        ("The journal is waited for", [length(JOURNAL_LIMIT)]),
        ("The certificate is waited for", [length(JOURNAL_LIMIT)]),
        ("What is being written when the file systems", [length(SETTLE_LIMIT)]),
        ("The look at watched paths", [length(INSPECTION_LIMIT)]),
        ("A cycle decides", [length(ANSWER_MARGIN), length(LAST_MOMENT)]),
        ("An app that floods", [f"{MESSAGES_AT_ONCE} messages", f"{timedelta(seconds=1) // MESSAGE_EVERY} a second"]),
        ("An administrator can end", [f"{FORCE_THAW_LIMIT.seconds} seconds"]),
        ("Paths that are to be watched", [f"{ENTRIES_LIMIT:,}", f"{ENTRIES_LIMIT_IN_ALL:,}", f"{DEPTH_LIMIT} levels"]),
        ("Everybody is answered meanwhile", [f"{RING_LIMIT:,} lines", f"{WAITING_LIMIT} cycles"]),
        ("It is killed in a hold and started again", [f"{COPY_LIMIT // 1024**2} MiB"]),
        ("A disk that is full", [f"{WAITING_LIMIT} cycles"]),
        ("A damaged history", [{3: "three newest"}[DAMAGED_KEPT]]),
    ],
)
def test_the_numbers_are_those_of_the_code(beginning: str, bounds: list[str]) -> None:
    (row,) = [row for row in ROWS if row[0].startswith(beginning)]
    assert all(bound in " ".join(row[:2]) for bound in bounds), row[:2]
