"""What a failed app means and what to do next: a table as data, for `appvss why` (docs/why.md).

Rows are tried from top to bottom, and the first that fits counts. What a row looks at is the outcome, then its fields,
and the words of its reason only where no field tells: those are sentences of `appvss/cycle` or of the app itself. Each
outcome ends in a row that fits everything.

Braces in the texts are filled in: `{app}`, `{name}` (of the app without its instance), `{reason}`, `{source}`,
`{budget}` (the key of the source's time for the apps), `{cycle}`, and the named groups of the pattern.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from appvss.model.app import Requirement
from appvss.model.verdict import AppOutcome, Level, Outcome

REHEARSE: Final = "Then try it without a snapshot: `appvss rehearse --count 1`."
AGAIN: Final = "Take the snapshot again."
"""Left out where nothing is wrong with the snapshot."""
_SHOW: Final = "See what it last said and did: `appvss apps {name}`, and its own log."
_TOLERATE: Final = (
    'If snapshots may go on without it: set `requirement = "tolerated"` for it in `[[apps.policy]]` of the broker\'s '
    "configuration, and take its name out of `apps.required`."
)


@dataclass(frozen=True, slots=True)
class AppRow:
    """One way in which an app can fail."""

    kind: str
    """A stable word, for programs."""
    outcome: Outcome
    said: str
    """One sentence without its full stop: what happened."""
    next_steps: tuple[str, ...]
    """What to do, a whole sentence each, the first thing first."""
    pattern: str = ""
    """What its reason must look like, from its beginning; empty: anything."""
    retryable: bool | None = None
    """Whether it must have said that trying again may help; None: either."""
    hangs: bool = False
    """Whether its process may hang now, so that it is worth a look."""


APP_ROWS: Final = (
    AppRow(
        "app_outside_freeze",
        Outcome.HELD,
        "{app} was held, and not all of its files were on file systems that were frozen with the others: {reason}",
        (
            "See where its files lie, and what would be frozen: `appvss filesystems --declared`.",
            "Freeze them all: name every one of its file systems (`--mount`), or freeze what the apps declare; `/` is "
            "frozen with `--force` alone. What the configuration leaves out stands in `filesystems.exclude`.",
            AGAIN,
        ),
        r"it has files in ",
    ),
    AppRow(
        "app_unlocated",
        Outcome.HELD,
        "{app} was held, and it registered so late that nobody looked whether its files were in the freeze",
        (AGAIN,),
        r"it registered after it had been looked up",
    ),
    AppRow(
        "app_unseen",
        Outcome.HELD,
        "{app} was held, and nothing lies at any of its paths, as the broker sees it: nobody can tell whether its "
        "files were in the freeze",
        (
            "See what it declares: `appvss apps {name}`; and whether its file system is mounted: `findmnt`.",
            "If it runs in a container: let it declare its files as this machine sees them.",
            AGAIN,
        ),
        r"nothing lies at any of its paths",
    ),
    AppRow(
        "app_stands_still",
        Outcome.HELD,
        "{app} was held, and all it does is stand still: what it had in its memory is not in the snapshot",
        (
            "Its copy restores as after a kill of the app, if its file systems were frozen: see that it survives that.",
            "An app that flushes before it holds is worth more: an adapter for its engine, or its own few lines "
            "(docs/sdk.md).",
            'If that is enough: set `requirement = "tolerated"` for it in `[[apps.policy]]` of the broker\'s '
            "configuration.",
        ),
        r"it only stands still",
    ),
    AppRow(
        "app_worth_less",
        Outcome.HELD,
        "{app} was held, and its copy is worth less: {reason}",
        ("Do what its reason says; `appvss show {cycle}` has everything that happened, in order.",),
    ),
    AppRow(
        "app_vetoed_for_now",
        Outcome.VETOED,
        "{app} refused, and says that trying again soon may help: {reason}",
        ("Wait some minutes and take the snapshot again.", REHEARSE),
        retryable=True,
    ),
    AppRow(
        "app_stopping",
        Outcome.VETOED,
        "{app} refused because it was just being stopped",
        ("Start it again, and take the snapshot when `appvss apps` shows it as registered.",),
        r"the app is stopping",
    ),
    AppRow(
        "app_out_of_time",
        Outcome.VETOED,
        "{app} could not get quiet in the time that it was given: {reason}",
        (
            "Let it do its slow work ahead, in `prepare` (docs/sdk.md), or give it more time: `freeze_timeout` for it "
            "in `[[apps.policy]]`.",
            "See how long it really takes: `appvss rehearse`.",
        ),
        r"the (time to (prepare|get quiet), \S+, ran out|broker gives no time to)",
    ),
    AppRow(
        "app_vetoed",
        Outcome.VETOED,
        "{app} refused: {reason}",
        ("Do what its reason says; its own log has more.", REHEARSE),
    ),
    AppRow(
        "app_prepare_timed_out",
        Outcome.TIMED_OUT,
        "{app} did not finish its preparation in time, and silence is never consent",
        (
            "See what keeps it busy: `appvss apps {name}`, and its own log.",
            "Ask for the snapshot at a quieter time, or raise the time: `sources.{source}.{budget}`.",
        ),
        r"it did not prepare",
        hangs=True,
    ),
    AppRow(
        "app_timed_out",
        Outcome.TIMED_OUT,
        "{app} was asked to freeze and did not answer in its time, and silence is never consent: {reason}",
        (_SHOW, "Measure how long it needs, and compare it with what it is given: `appvss rehearse`."),
        hangs=True,
    ),
    AppRow(
        "app_left_after_check",
        Outcome.DISCONNECTED,
        "{app} agreed to the check and was gone when the freeze came",
        ("See why it left: its own log. Start it again if it is not in `appvss apps`.", AGAIN),
        r"it left after the check",
    ),
    AppRow(
        "app_unanswered_at_restart",
        Outcome.DISCONNECTED,
        "{app} had not answered yet when the broker died",
        ("Find out why the broker died: its log, such as `journalctl -u appvss`.", AGAIN),
        r"the broker was restarted",
    ),
    AppRow(
        "app_died",
        Outcome.DISCONNECTED,
        "the process of {app} ended before it had answered",
        (
            "See why it ended: its own log, its service manager, and `journalctl -k` for the out-of-memory killer.",
            "Start it again, and take the snapshot when `appvss apps` shows it as registered.",
        ),
        r"its process is gone",
    ),
    AppRow(
        "app_disconnected",
        Outcome.DISCONNECTED,
        "the connection of {app} to the broker broke before it had answered: {reason}",
        ("It comes back by itself if it runs: see whether `appvss apps` shows it.", AGAIN),
    ),
    AppRow(
        "app_died_in_hold",
        Outcome.HOLD_LOST,
        "the process of {app} ended while it was held; whoever starts it again may write at once",
        (
            "See why it ended: its own log, its service manager, and `journalctl -k` for the out-of-memory killer.",
            AGAIN,
        ),
        r"its process died in its hold",
    ),
    AppRow(
        "app_hold_limit_passed",
        Outcome.HOLD_LOST,
        "{app} may stay quiet for {limit} at most, and the thaw did not come in that time",
        (
            "Let the snapshot be faster, or let the app declare a longer `hold_limit` (docs/sdk.md); one in "
            "`[[apps.policy]]` only makes it shorter.",
            "See whether the limits of apps and sources fit each other: `appvss doctor`.",
        ),
        r"(its|the) hold limit of (?P<limit>\S+) passed",
    ),
    AppRow(
        "app_away_too_long",
        Outcome.HOLD_LOST,
        "the connection of {app} broke while it was held, and it did not come back in time to prove its hold",
        (
            "See why it could not come back: its own log. A process that hangs or is stopped cannot.",
            "If it only needs longer: raise `cycle.return_grace` in the broker's configuration.",
        ),
        r"its stream broke",
        hangs=True,
    ),
    AppRow(
        "app_hold_unproven",
        Outcome.HOLD_LOST,
        "{app} came back without a proof of its hold: {reason}",
        ("It was restarted or let go meanwhile: its own log tells which.", AGAIN),
        r"it (came back|says that it has held)|.*\bincarnation\b|.*another process",
    ),
    AppRow(
        "app_thawed_early",
        Outcome.HOLD_LOST,
        "{app} went on before it was asked to",
        ("This is a defect of the app: tell its author that `thawed` came before the thaw (docs/sdk.md).", AGAIN),
        r"it thawed before it was asked",
    ),
    AppRow(
        "app_unconfirmed",
        Outcome.HOLD_LOST,
        "{app} did not say in time whether its hold was unbroken",
        (_SHOW, "If it only needs longer to go on: raise `cycle.thaw_limit` in the broker's configuration."),
        r"it did not confirm its thaw",
        hangs=True,
    ),
    AppRow(
        "app_paths_changed",
        Outcome.HOLD_LOST,
        "{app} said that it was quiet, and its files changed while it was held: {what}",
        (
            "Find out who writes there: `fuser -v PATH` names the processes. It is the app itself, or another one.",
            "If that file may change in a hold (a log, a lock): let the app declare narrower paths, or switch the "
            "watch off with `watch_paths = false` in `[[apps.policy]]`.",
        ),
        r"its files changed while it was held: (?P<what>.*)",
    ),
    AppRow(
        "app_paths_unseen",
        Outcome.HOLD_LOST,
        "{app} wants its files to be watched, and nobody could look at them: {what}",
        (
            "See that the broker may read the paths that it declares, and that they are there: `appvss apps {name}`.",
            "If they need no watch: `watch_paths = false` in `[[apps.policy]]`.",
        ),
        r"its paths could not be inspected: (?P<what>.*)",
    ),
    AppRow(
        "app_hold_lost",
        Outcome.HOLD_LOST,
        "{app} says that its hold was not unbroken: {reason}",
        ("Do what its reason says; its own log has more.", AGAIN),
    ),
    AppRow(
        "app_late",
        Outcome.ABSENT,
        "{app} registered when the freeze was under way already, too late to take part",
        ("It takes part in the next one.", AGAIN),
        r"it registered while",
    ),
    AppRow(
        "app_missed",
        Outcome.ABSENT,
        "{app} was registered with the broker before its restart, and had not come back when the freeze was asked for",
        (
            "See that it is back: `appvss apps`. If it is not: its own log says why it cannot reach the broker.",
            "Nothing needs to be changed for an app that is gone for good: it is missed for some seconds after a start "
            "of the broker alone.",
            AGAIN,
        ),
        r"a former broker had it",
    ),
    AppRow(
        "app_absent",
        Outcome.ABSENT,
        "{app} must take part and was not registered: {reason}",
        (
            "Start it, and see that `appvss apps` shows it as registered. If it runs: its own log says why it cannot "
            "reach the broker.",
            "If this machine has no such app any more: take its name out of `apps.required`, or out of the "
            "`[[apps.policy]]` that says `present`.",
        ),
    ),
    AppRow(
        "app_set_aside",
        Outcome.SKIPPED,
        "{app} was not asked, since the policy sets it aside after {failures} failures in a row; the last: {last}",
        (
            "Mend what its last failure names, then start it anew, or let it prove itself: "
            "`appvss rehearse --count 1`. When it has held there, it is asked again.",
            "What sets it aside is `set_aside_after` in `[[apps.policy]]`: `appvss apps {name}`.",
        ),
        r"set aside by policy after (?P<failures>\d+) failures? in a row(?:, the last: (?P<last>.*))?",
    ),
    AppRow(
        "app_needs_too_much",
        Outcome.SKIPPED,
        "{app} was not asked: {reason}",
        (
            "See how long it really takes (`appvss rehearse`), and lower its `freeze_timeout`, or move slow work into "
            "its `prepare`.",
            "Or give the apps more time: `sources.{source}.{budget}` in the broker's configuration.",
        ),
        r"it needs \S+ to freeze",
    ),
    AppRow(
        "app_not_asked",
        Outcome.SKIPPED,
        "{app} was not asked, since the cycle had failed before its turn",
        ("Nothing is wrong with it: mend what failed before.",),
    ),
)
"""Every way in which an app can fail."""

CONSEQUENCES: Final[Mapping[Requirement, Mapping[bool, str]]] = {
    Requirement.REQUIRED: {
        True: "It is required: the requester was told no.",
        False: "It is required: without it the snapshot is not application-consistent.",
    },
    Requirement.TOLERATED: dict.fromkeys((True, False), "It is tolerated: this is named, and lowers nothing."),
    Requirement.IGNORED: dict.fromkeys((True, False), "It is ignored: this lowers nothing."),
}
"""What an app's failure has done to the verdict; by requirement, and by whether the level is `failed`."""

LESSENED: Final = "It is required: with less than all of it the snapshot is not application-consistent."
"""The same of a required app that held, and whose copy is worth less."""

LEVELS: Final[Mapping[Level, tuple[str, str]]] = {
    Level.APPLICATION: (
        "The snapshot is application-consistent: every required app held until the thaw.",
        "Keep it. That an app's copy starts, too, only a trial shows: `appvss verify`.",
    ),
    Level.FILESYSTEM: (
        "The snapshot is consistent for its file systems alone: they stood still, and not every required app held with "
        "all that it has. It restores as after a power cut at one instant.",
        "Do not count it as a backup of the apps that are named below.",
    ),
    Level.CRASH: (
        "The snapshot is worth no more than a power cut: the machine may have been running while it was taken.",
        "Do not count it as a backup of any app.",
    ),
    Level.FAILED: (
        "There should be no snapshot: the requester was told no, and everything was let go.",
        "If there is one all the same, do not count on it.",
    ),
}
"""What each level means, and what to do with the snapshot."""

REHEARSED: Final[Mapping[Level, str]] = {
    Level.APPLICATION: "This was a rehearsal, without a snapshot: a real one would have been application-consistent.",
    Level.FILESYSTEM: "This was a rehearsal, without a snapshot: in a real one not every required app would have held.",
    Level.CRASH: "This was a rehearsal, without a snapshot: in a real one not every required app would have held.",
    Level.FAILED: "This was a rehearsal, without a snapshot: a real requester would have been told no.",
}
"""The same of a rehearsal."""

BUDGETS: Final = {"freebsd": "budget", "local": "freeze_budget", "rehearsal": "freeze_budget", "hook": "freeze_budget"}
"""The key of each source's time for its apps."""


def of_app(part: AppOutcome) -> tuple[AppRow, Mapping[str, str]]:
    """The row that tells of an app's failure, and what its texts are filled with.

    Args:
        part: the app's outcome, other than `held` with its whole worth.
    """
    for row in APP_ROWS:
        if row.outcome is not part.outcome or row.retryable not in (None, part.retryable):
            continue
        found = re.match(row.pattern, part.reason)
        if found:
            filling = {name: text or "not said" for name, text in found.groupdict().items()}
            return row, {
                **filling,
                "app": str(part.app),
                "name": part.app.name,
                "reason": part.reason or "no reason is known",
            }
    raise AssertionError(f"no row for {part.outcome}")


def next_steps(row: AppRow, part: AppOutcome, *, needs_another: bool) -> tuple[str, ...]:
    """What to do about an app's failure, unfilled; with a word on the policy for one that is required.

    Args:
        row: what its failure is.
        part: its part.
        needs_another: whether another snapshot must be taken on its account.
    """
    steps = tuple(step for step in row.next_steps if needs_another or step != AGAIN)
    can_do_without = part.requirement is Requirement.REQUIRED and row.outcome is Outcome.TIMED_OUT
    return (*steps, _TOLERATE) if can_do_without else steps
