"""What the outcomes of the apps mean for the verdict.

The rules, in the order in which they are tried:
- The requester was told no: `failed`. There should be no snapshot.
- Nothing speaks against it and at least one app held that the freeze concerns: `application`.
- File systems were frozen over the whole hold, and the requester ended the hold itself: `filesystem`.
- Everything else: `crash`. The machine may have been running when the snapshot was taken.

"Something speaks against it" is: a required app whose outcome is not `held`, or whose copy is worth less than its hold
for a reason of its own (`grading`: it only stands still, or has files on a file system that was not frozen with the
others); an end of the hold that the requester did not ask for; file systems that this broker froze and that may not
have stayed so until the thaw, or one that was to be frozen, cannot be, and lowers the verdict by the administrator's
word. A tolerated app's failure or lesser worth is named and lowers nothing; an ignored app's stands in the outcomes
alone. An app that a freeze of named file systems does not concern counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from appvss.model.app import Requirement
from appvss.model.filesystem import FilesystemPart
from appvss.model.verdict import AppOutcome, Level, Outcome, Verdict

_SAID: dict[Outcome, str] = {
    Outcome.HELD: "was held, and its copy is worth less",
    Outcome.VETOED: "refused",
    Outcome.TIMED_OUT: "did not answer in time",
    Outcome.DISCONNECTED: "went away before it had answered",
    Outcome.HOLD_LOST: "lost its hold",
    Outcome.ABSENT: "should have taken part and was not there",
    Outcome.SKIPPED: "was not asked",
}


def judge(
    cycle: str,
    outcomes: Sequence[AppOutcome],
    *,
    told_go_on: bool,
    ended_by: str,
    filesystems_frozen: bool,
    filesystems_doubt: str,
    filesystems_missing: Sequence[str],
    filesystems: tuple[FilesystemPart, ...],
    journal_notes: Sequence[str],
    hold: timedelta | None,
) -> Verdict:
    """The verdict of a cycle.

    Args:
        cycle: its id.
        outcomes: every app's part with its grade, in the order of the freeze.
        told_go_on: whether the requester was told that everything is held.
        ended_by: why the cycle ended other than by its requester's thaw; empty when it did end so.
        filesystems_frozen: whether this broker froze file systems.
        filesystems_doubt: why they may not have stayed frozen until the thaw; empty when nothing says so.
        filesystems_missing: a sentence for each that was not frozen and lowers the level.
        filesystems: what became of each.
        journal_notes: what the journal could not do; it is named and lowers nothing.
        hold: from the last ack to the thaw.
    """
    spoken = [outcome for outcome in outcomes if outcome.is_failure or outcome.is_lessened]
    named = [outcome for outcome in spoken if outcome.requirement is not Requirement.IGNORED]
    doubts = [outcome for outcome in named if outcome.requirement is Requirement.REQUIRED]
    lesser = [outcome for outcome in named if outcome.requirement is Requirement.TOLERATED]
    nobody = not any(outcome.outcome is Outcome.HELD and outcome.is_concerned for outcome in outcomes)
    if not told_go_on:
        level = Level.FAILED
    elif not (doubts or ended_by or filesystems_doubt or filesystems_missing or nobody):
        level = Level.APPLICATION
    elif filesystems_frozen and not (ended_by or filesystems_doubt or filesystems_missing):
        level = Level.FILESYSTEM
    else:
        level = Level.CRASH
    reasons = [reason for reason in (ended_by, filesystems_doubt, *filesystems_missing) if reason]
    reasons += _sentences(doubts)
    if nobody and told_go_on and not doubts:
        which = "" if all(outcome.is_concerned for outcome in outcomes) else " that has files on what was named"
        reasons.append(f"no app was held{which}: nothing in this machine vouches for the snapshot")
    reasons += _sentences(lesser)
    reasons += journal_notes
    return Verdict(cycle, level, tuple(outcomes), tuple(dict.fromkeys(reasons)), hold, filesystems)


def _sentences(failures: Iterable[AppOutcome]) -> list[str]:
    """One sentence for each failure; an app that was only never asked says nothing about why the cycle failed."""
    return [sentence_of(failure) for failure in failures if failure.outcome is not Outcome.SKIPPED or failure.reason]


def sentence_of(failure: AppOutcome) -> str:
    """One app's failure, or why its copy is worth less, in words."""
    sentence = f"{failure.app} ({failure.requirement}) {_SAID[failure.outcome]}"
    return f"{sentence}: {failure.reason}" if failure.reason else sentence
