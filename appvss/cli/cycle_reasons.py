"""What ended or lowered a cycle as a whole and what to do next: a table as data, for `appvss why` (docs/why.md).

A cycle has no field for these, so the rows look at the sentences of `appvss/cycle` and of the broker. The first that
fits counts; what fits none is shown as it is.

Braces in the texts are filled in: `{reason}` is the whole sentence, `{source}` the source, `{budget}` the key of its
time for the apps, and the named groups of the pattern. What is about file systems stands in `filesystem_reasons`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from appvss.cli.filesystem_reasons import FILESYSTEM_ROWS, CycleRow
from appvss.model.filesystem import FilesystemPart

_AGAIN: Final = "Take the snapshot again."
_BROKER_LOG: Final = "Find out why the broker died: its log, such as `journalctl -u appvss`."
_MORE_TIME: Final = (
    "Give the apps more time: `sources.{source}.{budget}` in the broker's configuration (FreeBSD's kernel gives 15s at "
    "most, of which `filesystem_reserve` is kept back)."
)


CYCLE_ROWS: Final = (
    CycleRow(
        "hold_limit_passed",
        r"the hold limit of (?P<limit>\S+) passed before the thaw came",
        "the requester had not asked for the thaw when the hold limit of {limit} passed, so everything went on",
        (
            "Find out what took the requester so long. Its snapshot may have been taken of a running machine.",
            "If it needs that long: raise `sources.{source}.hold_limit` in the broker's configuration, and see with "
            "`appvss doctor` that every app may hold as long.",
        ),
    ),
    CycleRow(
        "shared_hold_limit_passed",
        r"the hold limit of (?P<names>.+) passed before the thaw of those that share the hold came",
        "the hold was shared, and it was not over when the limit of {names} passed, so everything went on",
        (
            "See which of the requesters took so long: `appvss show {cycle}`.",
            "Give the slow one a hold of its own: set `overlap` of its source to `queue`, such as "
            "`sources.freebsd.overlap`.",
        ),
    ),
    CycleRow(
        "broker_restarted",
        r"the broker was restarted before",
        "the broker died before it had noted that all apps were held, and the next one let everything go",
        (_BROKER_LOG, _AGAIN),
    ),
    CycleRow(
        "requester_lost_at_restart",
        r"the broker was restarted in the hold, and (?P<who>.+) cannot ask for the thaw any more",
        "the broker died in the hold, and the call of {who} died with it, so that nobody could ask for the thaw",
        (_BROKER_LOG, _AGAIN),
    ),
    CycleRow(
        "restarted_while_undoing",
        r"the broker was restarted while the hold was being undone",
        "the cycle had failed already, and the broker died while it let the apps go; the next one let go of the rest",
        (_BROKER_LOG, "See in the list of apps below, and in their own logs, why the cycle had failed.", _AGAIN),
    ),
    CycleRow(
        "restarted_too_late",
        r"the broker was restarted in the hold, and the hold limit passed",
        "the broker died in the hold, and when it was there again the hold limit had passed",
        (_BROKER_LOG, "Let its service manager start it again at once: `RestartSec=0` in its unit.", _AGAIN),
    ),
    CycleRow(
        "requester_gone",
        r"(?P<who>.+) is gone: (?P<why>.+)",
        "{who} went away in mid-cycle ({why}), and nobody would ever have asked for the thaw",
        (
            "Find out what ended it: its own log, and `journalctl -k` for the out-of-memory killer. For a device: "
            "`appvss status` shows whether its source serves again.",
            _AGAIN,
        ),
    ),
    CycleRow(
        "thaw_forced",
        r"an administrator forced the thaw: (?P<why>.*)",
        "an administrator ended the cycle with `appvss thaw`: {why}",
        ("Ask whoever did it, if it was not you. If an app hung, `appvss apps` names it.", _AGAIN),
    ),
    CycleRow(
        "thaw_forced",
        r"the thaw was forced",
        "somebody ended the cycle by force and gave no reason",
        ("If an app hung, `appvss apps` names it.", _AGAIN),
    ),
    CycleRow(
        "broker_stopped",
        r"the broker (was told to stop|stops)",
        "the broker was stopped in mid-cycle, and let everything go before it ended",
        ("See that it runs: `appvss status`. Stop and update it outside of the time for backups.", _AGAIN),
    ),
    CycleRow(
        "broker_failed",
        r"the broker's core has failed",
        "the broker itself failed, and let everything go",
        ("Start it again, and report the bug with the traceback in its log.", _AGAIN),
    ),
    CycleRow(
        "thaw_too_early",
        r"(?P<who>.+) asked for the thaw before everything was held",
        "{who} gave up before everything was held",
        (
            "See which app takes so long: `appvss rehearse`. The requester's own time limit is shorter than that.",
            "Let the slow app do its work ahead, in `prepare` (docs/sdk.md).",
        ),
    ),
    CycleRow(
        "superseded",
        r"(?P<who>.+) asked for a new (?P<what>check|freeze) before the thaw of this cycle came",
        "{who} began anew with a {what} and never ended this cycle",
        (
            "The cycle that came after this one counts: `appvss history`.",
            "If it happens again and again: two backup jobs of the host overlap, or it gives up too soon.",
        ),
    ),
    CycleRow(
        "no_freeze_after_check",
        r"no freeze followed the check within (?P<limit>\S+)",
        "the requester asked whether a freeze would work, was told yes, and did not ask for it within {limit}",
        (
            "Nothing was held, and no snapshot was taken: look at the requester's log.",
            "If it needs longer: raise `cycle.prepared_limit` in the broker's configuration.",
        ),
    ),
    CycleRow(
        "circle",
        r"the apps (?P<names>.+) wait for each other through `after`",
        "the apps {names} each want to freeze after the other, so none can be the first",
        ("Take one of the names out of `after` of one of them: `appvss apps NAME` shows each one's.",),
    ),
    CycleRow(
        "no_time",
        r"(?P<giver>\S+) gives no time for the apps",
        "the time of {giver} was over before the apps could be asked, or all of it is reserved",
        (
            _MORE_TIME,
            "See that the machine is not overloaded, and that the requester gives time at all: `appvss show {cycle}`.",
        ),
    ),
    CycleRow(
        "app_over_budget",
        r"(?P<app>\S+) needs (?P<need>\S+) to freeze, and (?P<giver>\S+) gives (?P<given>\S+) for all",
        "{app} needs {need} to freeze, and {giver} gives all apps together {given}; so nothing was frozen",
        (
            "Measure what it really needs (`appvss rehearse --freeze-budget {need}`), and lower its `freeze_timeout`, "
            "or move slow work into its `prepare`.",
            _MORE_TIME,
        ),
    ),
    CycleRow(
        "apps_over_budget",
        r"the apps need more time to freeze, one order after the other",
        "the apps together need more time than there is, one order after the other; so nothing was frozen",
        (
            "Give the same `order` to apps that need not wait for each other, so that they freeze at the same time.",
            _MORE_TIME,
        ),
    ),
    CycleRow(
        "time_over",
        r"the time (for the apps was over before all were asked|was over before the file systems could be frozen"
        r"|was over when all apps were held)",
        "the apps took the time that there was, and the rest could not be frozen any more",
        ("See which app takes longest: `appvss rehearse`.", _MORE_TIME),
    ),
    CycleRow(
        "away_in_freeze",
        r"the stream of (?P<names>.+) broke and the time was over before it came back",
        "the connection of {names} broke in mid-freeze, and the time was over before it was back",
        ("See why it broke: the app's own log. `appvss apps` shows whether it is back.", _AGAIN),
    ),
    *FILESYSTEM_ROWS,
    CycleRow(
        "journal_unwritten",
        r"the journal could not be written: (?P<why>.*)",
        "the journal could not be written, so a broker that died in this hold could not have taken it up: {why}",
        ("See what is wrong with the state directory: `appvss doctor`; often it is a full or read-only disk.",),
    ),
    CycleRow(
        "certificate_unwritten",
        r"the certificate could not be written: (?P<why>.*)",
        "the certificate could not be written, so the snapshot does not carry its own proof: {why}",
        ("See what is wrong with the state directory: `appvss doctor`; often it is a full or read-only disk.",),
    ),
)
"""Every way in which a cycle can end other than it should."""

NOBODY_CONCERNED: Final = CycleRow(
    "no_app_concerned",
    r"no app was held that has files on what was named",
    "no app was held that has files on the file systems that were named, so nothing in this machine vouches for the "
    "snapshot",
    (
        "See where the apps have their files: `appvss apps NAME`, and name those file systems.",
        "If an app has files there that it does not declare: have them declared (docs/sdk.md, docs/agent.md).",
    ),
)
NOBODY_REGISTERED: Final = CycleRow(
    "no_app_registered",
    r"no app was held",
    "no app is registered, so nothing in this machine could vouch for the snapshot",
    (
        "Register the apps that matter: docs/sdk.md, or an app from samples/. `appvss apps` lists who is there.",
        "Name those that must never be missing in `apps.required` of the broker's configuration.",
    ),
)
NOBODY_HELD: Final = CycleRow(
    "no_app_held",
    r"no app was held",
    "not one app held, so nothing in this machine vouches for the snapshot",
    ("Mend the apps that are named below; every one of them failed.",),
)
OVERLAP_REFUSED: Final = CycleRow(
    "overlap_refused",
    r"freeze: no, cycle (?P<other>\S+) of (?P<holder>.+) is under way \((?P<phase>\w+)\)",
    "another requester asked for a freeze while this cycle was under way, and was told no",
    (
        "That request has no cycle of its own; whoever made it must ask again.",
        "To let it wait, or share the hold: set `overlap` of its source to `queue` or `join`, such as "
        "`sources.freebsd.overlap`.",
    ),
)
"""Not a doubt about the cycle itself; it is found in its events."""
ADOPTED: Final = CycleRow(
    "cycle_adopted",
    r"",
    "the broker died in this cycle, and the one that was started after it took the cycle up",
    (_BROKER_LOG,),
)
"""Not a doubt either: what could not be proved over the gap is named by itself. It is found in the events."""
OTHER: Final = CycleRow(
    "other", r"", "{reason}", ("See everything that happened in it, in order: `appvss show {cycle}`.",)
)
"""What no row above tells."""


RESTARTS: Final = frozenset({"broker_restarted", "requester_lost_at_restart", "restarted_too_late"})
"""The kinds that say by themselves that the broker died."""
NOTES: Final = frozenset({"journal_unwritten", "certificate_unwritten"})
"""The kinds that lower nothing, unless the configuration requires the history; then they are what ended the cycle."""
NOTE_CONSEQUENCES: Final[Mapping[bool, str]] = {
    True: "`history.requirement` is `required`: the cycle failed for it.",
    False: "It is named, and lowers nothing.",
}
"""What such a note has done to the verdict, by whether it ended the cycle."""


def of_cycle(
    sentence: str, *, is_anybody_there: bool, filesystems: Iterable[FilesystemPart] = ()
) -> tuple[CycleRow, Mapping[str, str]]:
    """The row that tells of a reason in a verdict that is about no single app, and what its texts are filled with.

    Args:
        sentence: the reason.
        is_anybody_there: whether the verdict has any app's outcome.
        filesystems: what became of the file systems in the same verdict.
    """
    outcomes = {part.outcome for part in filesystems if part.path in sentence}
    nobody = NOBODY_HELD if is_anybody_there else NOBODY_REGISTERED
    for row in (*CYCLE_ROWS, NOBODY_CONCERNED, nobody, OTHER):
        found = re.match(row.pattern, sentence)
        if found and (row.filesystem is None or row.filesystem in outcomes):
            said = {name: text or row.otherwise for name, text in found.groupdict().items()}
            if ": " in said.get("who", ""):
                said["who"] = f'"{said["who"]}"'  # a command line must not run into the sentence
            return row, {**said, "reason": sentence}
    raise AssertionError(f"no row for {sentence!r}")
