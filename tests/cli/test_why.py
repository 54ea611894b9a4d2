"""`appvss why`: a right sentence and a next step for everything that can go wrong, and no row without a case."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from appvss.cli import cycle_reasons, reasons
from appvss.cli.cycle_reasons import (
    ADOPTED,
    CYCLE_ROWS,
    NOBODY_CONCERNED,
    NOBODY_HELD,
    NOBODY_REGISTERED,
    OTHER,
    OVERLAP_REFUSED,
)
from appvss.cli.explanation import explain
from appvss.cli.reasons import APP_ROWS, LEVELS, REHEARSED
from appvss.model.app import Requirement
from appvss.model.grade import Grade
from appvss.model.verdict import APART, AppOutcome, Level, Outcome
from tests.cli.golden_cases import APP, FOLDER, HELD, PEERS, answers, cycle, details, part, text_of
from tests.docs.test_pages import rows, section

CYCLE_ROOM = Path(cycle_reasons.__file__).parents[1] / "cycle"
CASES = answers()


@pytest.mark.parametrize("name", CASES)
def test_why_says_what_has_been_looked_at(name: str) -> None:
    file = FOLDER / f"{name}.txt"
    assert text_of(CASES[name]) == file.read_text(encoding="utf-8"), "run `python -m tests.cli.golden_cases`, and look"


def test_no_text_is_left_of_a_case_that_is_gone() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_every_line_fits_into_80_columns_unless_a_command_does_not(name: str) -> None:
    assert [line for line in text_of(CASES[name]).splitlines() if len(line) > 80 and "`" not in line] == []


def every_kind() -> set[str]:
    return {doubt.kind for detail in details().values() for doubt in explain(detail, PEERS).doubts}


def test_every_row_of_both_tables_has_a_case() -> None:
    kinds = {row.kind for row in (*APP_ROWS, *CYCLE_ROWS)}
    beside = {row.kind for row in (ADOPTED, NOBODY_CONCERNED, NOBODY_HELD, NOBODY_REGISTERED, OTHER, OVERLAP_REFUSED)}
    assert every_kind() == kinds | beside


def test_every_outcome_and_every_level_has_a_row() -> None:
    assert {row.outcome for row in APP_ROWS} == set(Outcome)
    assert set(LEVELS) == set(REHEARSED) == set(Level)


@pytest.mark.parametrize("requirement", Requirement)
@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.HELD])
def test_every_outcome_under_every_requirement_has_a_sentence_and_a_next_step(
    outcome: Outcome, requirement: Requirement
) -> None:
    for reason in ("", "a reason that nobody has foreseen", "{braces} and %s"):
        level = Level.FAILED if requirement is Requirement.REQUIRED else Level.APPLICATION
        (doubt,) = explain(cycle(level, part(outcome, reason, requirement)), PEERS).doubts
        assert doubt.sentence.endswith(".")
        assert doubt.next_steps
        assert all(step.endswith(".") for step in doubt.next_steps)
        assert outcome is Outcome.SKIPPED or reason in doubt.sentence or doubt.kind == "app_prepare_timed_out"
        assert doubt.lowers is (requirement is Requirement.REQUIRED and bool(reason or outcome is not Outcome.SKIPPED))


@pytest.mark.parametrize("requirement", Requirement)
@pytest.mark.parametrize("reason", ["a reason that nobody has foreseen", "{braces} and %s"])
def test_every_held_app_whose_copy_is_worth_less_has_them_too(reason: str, requirement: Requirement) -> None:
    level = Level.FILESYSTEM if requirement is Requirement.REQUIRED else Level.APPLICATION
    less = part(Outcome.HELD, reason, requirement, grade=Grade.FS)
    (doubt,) = explain(cycle(level, HELD, less), PEERS).doubts
    assert (doubt.kind, doubt.app) == ("app_worth_less", less.app)
    assert reason in doubt.sentence
    assert doubt.next_steps
    assert doubt.lowers is (requirement is Requirement.REQUIRED)


@pytest.mark.parametrize("held", [HELD, part(Outcome.HELD, APART), part(Outcome.HELD, grade=Grade.RAW)])
def test_a_held_app_that_has_no_reason_of_its_own_is_no_doubt(held: AppOutcome) -> None:
    assert explain(cycle(Level.APPLICATION, held), PEERS).doubts == ()


def test_every_step_of_every_row_is_a_sentence_and_there_is_one() -> None:
    beside = (ADOPTED, NOBODY_CONCERNED, NOBODY_HELD, NOBODY_REGISTERED, OTHER, OVERLAP_REFUSED)
    for row in (*APP_ROWS, *CYCLE_ROWS, *beside):
        assert row.next_steps, row.kind
        assert all(step[0].isupper() or step[0] == "`" for step in row.next_steps), row.kind
        assert all(step.endswith(".") for step in row.next_steps), row.kind
        assert not row.said.endswith("."), row.kind


def test_the_reason_of_an_app_never_fills_in_anything() -> None:
    (doubt,) = explain(cycle(Level.FAILED, part(Outcome.VETOED, "{cycle} {nothing}")), PEERS).doubts
    assert "{cycle} {nothing}" in doubt.sentence


def test_an_app_that_is_not_there_any_more_is_nobody() -> None:
    (doubt,) = explain(cycle(Level.FAILED, part(Outcome.TIMED_OUT, "no ack within 2.0s")), {}).doubts
    assert (doubt.who, doubt.app) == ("", APP)
    assert not any("ps -o" in step for step in doubt.next_steps)


def test_an_unidentified_app_is_called_so() -> None:
    (doubt,) = explain(cycle(Level.FAILED, part(Outcome.TIMED_OUT, "no ack within 2.0s")), {APP: None}).doubts
    assert doubt.who == "unidentified"


def sentences_of_the_cycle() -> Iterator[tuple[str, str]]:
    """The sentences with which the core aborts a cycle or fails an app, with a word in the place of what is filled in;
    found in its source, so that a new one cannot be forgotten here.
    """
    for file in sorted(CYCLE_ROOM.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("abort", "fail"):
                text = text_in(node.args[-1], file)
                if text:
                    yield node.func.id, text


def text_in(node: ast.expr, file: Path) -> str:
    if isinstance(node, ast.BoolOp):  # what somebody said, or else our own words
        node = node.values[-1]
    if isinstance(node, ast.Constant):
        return str(node.value)
    if not isinstance(node, ast.JoinedStr):
        return ""
    names = constants(file)
    parts = []
    for value in node.values:
        if isinstance(value, ast.Constant):
            parts.append(str(value.value))
        else:
            assert isinstance(value, ast.FormattedValue)
            known = names.get(value.value.id) if isinstance(value.value, ast.Name) else None
            parts.append(known or "check")
    return "".join(parts)


def constants(file: Path) -> dict[str, str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def test_every_sentence_with_which_the_core_ends_a_cycle_has_a_row() -> None:
    found = [text for name, text in sentences_of_the_cycle() if name == "abort"]
    assert len(found) > 8
    kinds = {text: cycle_reasons.of_cycle(text, is_anybody_there=True)[0].kind for text in found}
    assert [text for text, kind in kinds.items() if kind == "other"] == []


def test_every_sentence_with_which_the_core_fails_an_app_has_a_row_of_its_own() -> None:
    found = {text for name, text in sentences_of_the_cycle() if name == "fail"}
    assert found
    general = {"it gave no reason"}
    for text in found - general:
        kinds = {reasons.of_app(part(outcome, text))[0].kind for outcome in Outcome if outcome is not Outcome.HELD}
        assert kinds - {
            "app_vetoed",
            "app_timed_out",
            "app_disconnected",
            "app_hold_lost",
            "app_absent",
            "app_not_asked",
        }


def test_the_page_has_every_word_and_no_other() -> None:
    page = (CYCLE_ROOM.parents[1] / "docs" / "why.md").read_text(encoding="utf-8")
    apps = [row[:2] for row in rows(section("why.md", "## What an app can have done"))]
    assert apps == [["held", ""], *([row.outcome.value, row.kind] for row in APP_ROWS)]
    beside = [row.kind for row in (NOBODY_CONCERNED, NOBODY_REGISTERED, NOBODY_HELD, OTHER)]
    cycles = [row[0] for row in rows(section("why.md", "## What can end a cycle, or lower it as a whole"))]
    assert set(cycles) == {row.kind for row in CYCLE_ROWS} | set(beside)
    assert len(cycles) == len(set(cycles))
    assert all(f"`{row.kind}`" in page for row in (ADOPTED, OVERLAP_REFUSED))
    assert [row[0] for row in rows(section("why.md", "## What a level is worth"))] == [level.value for level in Level]
