"""A kit that cannot fail is worth nothing: each program does one thing wrong, and the case that is about it fails."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.testing.conformance import CASES, Result, Status, Trial, check
from tests.testing.subjects import raw_lock

WRONG = [
    # what the program does wrong, the case that fails, and words of what is seen
    ("never_ready", "prepare", "no answer"),
    ("ready_too_late", "short_prepare", "after its end to a prepare"),
    ("never_ready", "short_prepare", "no answer to a prepare"),
    ("never_acks", "freeze_and_thaw", "no answer to the freeze"),
    ("always_vetoes", "freeze_and_thaw", "a veto: it is busy"),
    ("answers_twice", "freeze_and_thaw", "ack_twice"),
    ("names_other_cycle", "freeze_and_thaw", "no freeze of cycle another was asked"),
    ("never_unbroken", "freeze_and_thaw", "unbroken = false"),
    ("says_lost_after_thaw", "freeze_and_thaw", "that it called unbroken at its thaw: on second thoughts"),
    ("long_evidence", "evidence", "evidence"),
    ("vetoes_what_it_holds", "frozen_twice", "a veto: it is held already"),
    ("other_evidence", "frozen_twice", "other evidence"),
    ("holds_two", "other_cycle_while_held", "two cycles"),
    ("empty_veto", "other_cycle_while_held", "no reason"),
    ("empty_veto", "tiny_budget", "no answer"),
    ("acks_too_late", "budget_runs_out", "after its end"),
    ("silent_at_budget", "tiny_budget", "no answer to a freeze"),
    ("never_answers_what_is_aborted", "abort_while_freezing", "no answer to the freeze"),
    ("ignores_abort", "abort_while_freezing", "no answer to the abort"),
    ("acks_after_abort", "abort_while_freezing", "an ack after the abort was answered"),
    ("ignores_thaw_again", "thawed_twice", "no answer to the same thaw again"),
    ("ignores_unknown_thaw", "thaw_without_freeze", "no answer"),
    ("always_unbroken", "thaw_without_freeze", "unbroken = true"),
    ("lets_go_of_anything", "thaw_of_other_cycle", "unbroken = false"),
    ("ignores_abort", "abort_in_hold", "no answer to the abort"),
    ("ignores_limit", "hold_limit", "no hold_lost"),
    ("says_nothing_at_limit", "hold_limit", "no hold_lost"),
    ("goes_on_early", "hold_limit", "hold_lost after"),
    ("unbroken_after_limit", "hold_limit", "unbroken = true"),
    ("ends_at_unknown", "unknown_message", "ended with code 1"),
    ("ends_at_refusal", "refused_message", "ended with code 3"),
    ("talks_in_the_hold", "filesystem_freeze", "before the thaw"),
    ("ends_at_strange_text", "strange_requester", "ended with code 1"),
    ("ends_with_its_stream", "refused_calls", "ended with code 3"),
    ("never_comes_back", "stream_cut_at_rest", "did not come back"),
    ("new_incarnation", "stream_cut_at_rest", "incarnation"),
    ("lets_go_with_its_stream", "stream_cut_in_hold", "no hold in its hello"),
    ("claims_too_short", "stream_cut_in_hold", "its hello says that it has held for"),
    ("never_claims", "broker_back", "no hold in its hello"),
    ("ends_at_goodbye", "broker_goodbye", "ended with code 3"),
    ("ignores_limit", "broker_lost", "still holds"),
    ("unbroken_after_limit", "broker_lost", "unbroken = true"),
    ("leaks_descriptors", "many_cycles", "descriptors"),
    ("leaks_threads", "many_cycles", "threads"),
    ("never_holds", "writes_held", "a write went through in the hold"),
    ("acks_before_quiet", "writes_held", "a write went through in the hold"),
    ("lets_go_of_anything_and_lies", "writes_held", "after the thaw of another cycle"),
    ("lets_go_with_its_stream", "writes_held", "after its stream was cut"),
    ("keeps_lock_at_abort", "writable_after_abort", "no write goes through"),
    ("keeps_lock_taken_half_way", "writable_after_abort", "no write goes through"),
    ("keeps_lock_at_veto", "writable_after_veto", "no write goes through"),
    ("keeps_lock_at_limit", "writable_after_hold_limit", "no write goes through"),
    ("ignores_limit", "writable_after_broker_lost", "no write goes through"),
    ("keeps_lock_at_limit", "writable_after_stop", "no write goes through"),
    ("leaks_lock_when_killed", "writable_after_sigterm", "no write goes through"),
    ("lets_go_at_its_next_start", "writable_after_sigterm", "no write goes through"),
    ("leaks_lock_when_killed", "writable_after_kill", "no write goes through"),
    ("leaks_lock_when_killed", "writable_after_kill_of_all", "no write goes through"),
    ("unbroken_after_limit", "stopped_past_limit", "unbroken = true"),
    ("runs_on", "sigterm_in_hold", "runs on"),
    ("leaves_somebody", "sigterm_in_hold", "are left after its end"),
    ("claims_hold_of_its_past", "killed_in_hold", "claims the hold"),
    ("same_incarnation", "all_killed_in_hold", "incarnation"),
]


WAITED_FOR = (
    *("no answer", "no hold_lost", "no write goes through", "still holds", "has held for"),
    *("runs on", "are left after its end", "did not come back"),
)
"""What is seen when a length of time has passed in which something did not come."""
IMPATIENT: dict[str, timedelta] = {
    "budget": timedelta(seconds=1),
    "answer_within": timedelta(seconds=1),
    "hold_limit": timedelta(milliseconds=400),
    "margin": timedelta(milliseconds=600),
    "end_within": timedelta(seconds=1.5),
    "released_within": timedelta(milliseconds=500),
}
PATIENT: dict[str, timedelta] = {
    "hold_limit": timedelta(seconds=1),
    "margin": timedelta(seconds=3),
    "silence": timedelta(seconds=5),
}


def played(directory: Path, wrong: str, name: str, words: str) -> Result:
    (case,) = (case for case in CASES if case.name == name)
    subject = raw_lock(directory, wrong, **(IMPATIENT if any(seen in words for seen in WAITED_FOR) else PATIENT))
    with Trial(subject) as trial:
        if wrong == "never_comes_back":  # it had all the time to come for the first time
            trial._on.subject = replace(subject, attach_within=timedelta(seconds=2))
        return trial.play(case)


@pytest.mark.parametrize(("wrong", "name", "words"), WRONG, ids=lambda value: value if " " not in value else "")
def test_the_case_fails_and_says_what_was_seen(wrong: str, name: str, words: str, tmp_path: Path) -> None:
    result = played(tmp_path, wrong, name, words)
    assert result.status is Status.FAILED, result
    assert words in result.seen, result
    assert result.expected
    assert result.hint
    with pytest.raises(AssertionError, match="expected: "):
        result.raise_if_failed()


def test_a_veto_is_seen_also_of_an_app_that_was_slow_at_first(tmp_path: Path) -> None:
    """Half of the time that it took at first would be enough for it, and nothing would be known of its vetoes."""
    chosen = [case for case in CASES if case.name in ("freeze_and_thaw", "writable_after_veto")]
    results = check(raw_lock(tmp_path, "keeps_lock_at_veto_when_warm", **IMPATIENT), chosen).results
    assert [result.status for result in results] == [Status.PASSED, Status.FAILED], results


def test_every_case_can_fail() -> None:
    cannot = {
        "attaches",  # without it no case is played: see test_conformance.py
        "identity",  # an app may come without a token
        "abort_after_prepare",
        "stream_cut_while_preparing",
        "stream_cut_while_freezing",
        "stream_cut_while_thawing",
        "broker_gone_while_freezing",
        "writable_at_rest",  # see test_conformance.py
        "writable_after_thaw",
    }
    assert {case.name for case in CASES} - {name for _, name, _ in WRONG} == cannot
