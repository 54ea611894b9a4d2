"""Cycles for `appvss why`, one for every way in which one can go wrong. `python -m tests.cli.golden_cases` writes what
the command says of each to tests/cli/golden; look at the difference before it is kept.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from appvss.cli import why
from appvss.cli.explanation import explain
from appvss.cycle.policy import sentence_of
from appvss.model.app import AppId, Peer, Requirement
from appvss.model.filesystem import FilesystemOutcome, FilesystemPart
from appvss.model.grade import Grade
from appvss.model.phase import Phase
from appvss.model.verdict import APART, AppOutcome, Level, Outcome, Verdict
from appvss.sdk.admin_cycles import BrokerEvent, CycleDetail, CycleSummary
from appvss.sdk.admin_values import RestoredMachine

FOLDER = Path(__file__).with_name("golden")
TIME = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
CYCLE = "20260304T050607Z-a1b2c3"
APP = AppId("orders-db", "eu")
PEERS = {APP: Peer(70070, 70070, 4194400)}
"""No machine has such a user or such a process."""
REQUIRED, TOLERATED, IGNORED = Requirement.REQUIRED, Requirement.TOLERATED, Requirement.IGNORED
UNVOUCHED = (Level.CRASH, Level.FILESYSTEM)
HELD = AppOutcome(AppId("web"), Outcome.HELD, REQUIRED, 50, hold=timedelta(seconds=3))


def part(outcome: Outcome, reason: str = "", requirement: Requirement = REQUIRED, **fields: object) -> AppOutcome:
    return AppOutcome(APP, outcome, requirement, 10, reason, **fields)  # type: ignore[arg-type]  # as a test writes it


def cycle(level: Level, *parts: AppOutcome, ended_by: str = "", notes: tuple[str, ...] = (), **fields: object):
    """A cycle with the reasons that `appvss/cycle/policy.py` gives."""
    spoken = [one for one in parts if one.is_failure or one.is_lessened]
    failed = [one for one in spoken if one.outcome is not Outcome.SKIPPED or one.reason]
    reasons = [ended_by] if ended_by else []
    reasons += [sentence_of(one) for one in failed if one.requirement is REQUIRED]
    if not any(one.outcome is Outcome.HELD and one.is_concerned for one in parts) and level in UNVOUCHED:
        which = "" if all(one.is_concerned for one in parts) else " that has files on what was named"
        reasons.append(f"no app was held{which}: nothing in this machine vouches for the snapshot")
    reasons += [sentence_of(one) for one in failed if one.requirement is TOLERATED]
    reasons += notes
    hold = None if level is Level.FAILED else timedelta(seconds=3)
    verdict = Verdict(CYCLE, level, parts, tuple(dict.fromkeys(reasons)), hold)
    phase = Phase.ABORTED if ended_by else Phase.COMPLETED
    summary = CycleSummary(CYCLE, "freebsd", "hyper-v host", TIME, timedelta(seconds=4), phase, verdict)
    events: tuple[BrokerEvent, ...] = fields.pop("events", ())  # type: ignore[assignment]  # as a test writes it
    return CycleDetail(replace(summary, **fields), events)  # type: ignore[arg-type]  # as a test writes it


def event(kind: str, detail: str) -> BrokerEvent:
    return BrokerEvent(kind, TIME, CYCLE, "", Phase.HOLDING, detail, None, timedelta(seconds=1))


def _outcomes() -> Iterator[tuple[str, AppOutcome, Level]]:
    """A name, an outcome and the level of a cycle in which nothing else went wrong."""
    failed, crash = Level.FAILED, Level.CRASH
    yield "vetoed", part(Outcome.VETOED, "a schema change is running"), failed
    yield "vetoed_for_now", part(Outcome.VETOED, "a long statement is running", retryable=True), failed
    yield "vetoed_stopping", part(Outcome.VETOED, "the app is stopping"), failed
    yield "vetoed_out_of_time", part(Outcome.VETOED, "the time to get quiet, 2.0s, ran out"), failed
    yield "vetoed_no_time", part(Outcome.VETOED, "the broker gives no time to get quiet: 0.0ms"), failed
    yield "timed_out", part(Outcome.TIMED_OUT, "no ack within 2.0s"), failed
    yield "timed_out_preparing", part(Outcome.TIMED_OUT, "it did not prepare in its time"), failed
    yield "disconnected", part(Outcome.DISCONNECTED, "its stream ended"), failed
    yield "disconnected_died", part(Outcome.DISCONNECTED, "its process is gone"), failed
    yield "disconnected_after_check", part(Outcome.DISCONNECTED, "it left after the check"), failed
    unanswered = "the broker was restarted before it had answered"
    yield "disconnected_at_restart", part(Outcome.DISCONNECTED, unanswered), failed
    yield "hold_lost", part(Outcome.HOLD_LOST, "the session of the lock was ended by an administrator"), crash
    died = "its process died in its hold: its process is gone"
    yield "hold_lost_died", part(Outcome.HOLD_LOST, died), crash
    limit = "its hold limit of 1m00s passed before the thaw"
    yield "hold_lost_limit", part(Outcome.HOLD_LOST, limit), crash
    own = "the hold limit of 1m00s passed before a thaw came"
    yield "hold_lost_own_limit", part(Outcome.HOLD_LOST, own), crash
    away = "its stream broke and it did not come back within 5.0s"
    yield "hold_lost_away", part(Outcome.HOLD_LOST, away), crash
    yield "hold_lost_without_claim", part(Outcome.HOLD_LOST, "it came back without its hold"), crash
    short = "it says that it has held for 200.0ms only: not since its ack"
    yield "hold_lost_short_claim", part(Outcome.HOLD_LOST, short), crash
    yield "hold_lost_thawed_early", part(Outcome.HOLD_LOST, "it thawed before it was asked to"), crash
    yield "hold_lost_unconfirmed", part(Outcome.HOLD_LOST, "it did not confirm its thaw"), crash
    changed = "its files changed while it was held: /var/db/orders/wal/000017 (size 4096 -> 8192)"
    yield "hold_lost_paths_changed", part(Outcome.HOLD_LOST, changed), crash
    unseen = "its paths could not be inspected: nothing lies at /var/db/orders, as the broker sees it"
    yield "hold_lost_paths_unseen", part(Outcome.HOLD_LOST, unseen), crash
    yield "absent", part(Outcome.ABSENT, "the configuration expects it"), failed
    missed = "a former broker had it, and it has not come back to this one yet"
    yield "absent_missed", part(Outcome.ABSENT, missed), failed
    yield "absent_late", part(Outcome.ABSENT, "it registered while the freeze was under way"), failed
    yield "skipped", part(Outcome.SKIPPED), failed
    outside = "it has files in /srv/wal, which is not in the freeze: /srv: the requester does not mean it"
    yield "outside_freeze", part(Outcome.HELD, outside, grade=Grade.FS), Level.FILESYSTEM
    late = "it registered after it had been looked up where the files of the apps lie"
    yield "unlocated", part(Outcome.HELD, late, grade=Grade.RAW), Level.FILESYSTEM
    unseen = "nothing lies at any of its paths, as the broker sees it: nobody can tell where its files are"
    yield "unseen", part(Outcome.HELD, unseen, grade=Grade.RAW), Level.FILESYSTEM
    still = "it only stands still, and what it had in its memory is not in the snapshot"
    yield "stands_still", part(Outcome.HELD, still, grade=Grade.FS), Level.FILESYSTEM
    yield "stands_still_alone", part(Outcome.HELD, still, grade=Grade.RAW), crash
    yield "stands_still_tolerated", part(Outcome.HELD, still, TOLERATED, grade=Grade.FS), Level.APPLICATION
    yield "worth_less", part(Outcome.HELD, "it lies on a tape", grade=Grade.FS), Level.FILESYSTEM
    yield "not_concerned", part(Outcome.SKIPPED, APART), Level.APPLICATION


def _by_requirement() -> Iterator[tuple[str, CycleDetail]]:
    """Every outcome under the two requirements that let the cycle go on."""
    reasons = {
        Outcome.VETOED: "a schema change is running",
        Outcome.TIMED_OUT: "no ack within 2.0s",
        Outcome.DISCONNECTED: "its stream ended",
        Outcome.HOLD_LOST: "the lock was taken away",
        Outcome.ABSENT: "it registered while the freeze was under way",
        Outcome.SKIPPED: "it needs 20.0s to freeze, and freebsd gives 9.9s for all apps together",
    }
    for outcome, reason in reasons.items():
        for requirement in (TOLERATED, IGNORED):
            yield f"{outcome}_{requirement}", cycle(Level.APPLICATION, HELD, part(outcome, reason, requirement))


def _ends() -> Iterator[tuple[str, CycleDetail]]:
    """Cycles that ended for a reason of their own."""
    ends = {
        "hold_limit_passed": (Level.CRASH, "the hold limit of 1m00s passed before the thaw came"),
        "shared_hold_limit_passed": (
            Level.CRASH,
            "the hold limit of appvss freeze passed before the thaw of those that share the hold came",
        ),
        "requester_gone": (Level.CRASH, "appvss freeze (user 0, process 12): pg_dump is gone: it hung up"),
        "thaw_forced": (Level.CRASH, "an administrator forced the thaw: appvss thaw by user 0"),
        "thaw_forced_without_reason": (Level.CRASH, "the thaw was forced, without a reason"),
        "broker_stopped": (Level.CRASH, "the broker was told to stop"),
        "broker_failed": (Level.CRASH, "the broker's core has failed: let go of whatever is held"),
        "thaw_too_early": (Level.FAILED, "hyper-v host asked for the thaw before everything was held"),
        "superseded": (Level.CRASH, "hyper-v host asked for a new check before the thaw of this cycle came"),
        "no_freeze_after_check": (Level.FAILED, "no freeze followed the check within 2m00s"),
        "circle": (Level.FAILED, "the apps cache, web wait for each other through `after`"),
        "no_time": (
            Level.FAILED,
            "freebsd gives no time for the apps: the request's time is over, or all of it is reserved",
        ),
        "app_needs_too_much": (
            Level.FAILED,
            "orders-db[eu] needs 20.0s to freeze, and freebsd gives 9.4s for all apps together",
        ),
        "apps_need_too_much": (
            Level.FAILED,
            "the apps need more time to freeze, one order after the other, than there is: freebsd gives 9.4s for all "
            "apps together",
        ),
        "time_over_apps": (Level.FAILED, "the time for the apps was over before all were asked"),
        "time_over_filesystems": (Level.FAILED, "the time was over before the file systems could be frozen"),
        "stream_away": (Level.FAILED, "the stream of web broke and the time was over before it came back"),
        "filesystems_failed": (Level.FAILED, "the file systems could not be frozen: /srv is busy"),
        "filesystems_late": (Level.FAILED, "the file systems were not frozen in the time that was left"),
        "filesystems_not_ready": (
            Level.FAILED,
            "the file systems were not ready to be frozen in the time that was left",
        ),
        "filesystem_no_mount": (
            Level.FAILED,
            "the file systems could not be frozen: /srv/data is no mount point",
        ),
        "filesystem_changed": (
            Level.FAILED,
            "the file systems could not be frozen: the mount at /srv changed between listing and freeze",
        ),
        "filesystem_named_unfreezable": (
            Level.FAILED,
            "the file systems could not be frozen: /boot/efi cannot be frozen: it has no freeze (vfat)",
        ),
        "filesystem_forbidden": (
            Level.FAILED,
            "the file systems could not be frozen: /srv cannot be frozen: the kernel does not permit it: the broker "
            "needs CAP_SYS_ADMIN where the file system was mounted",
        ),
        "filesystem_hangs": (
            Level.FAILED,
            "the file systems could not be frozen: the freeze of /srv for cycle c1 hangs in the kernel",
        ),
        "filesystems_went_on": (Level.CRASH, "the file systems went on before the thaw: somebody else thawed /srv"),
        "filesystems_unconfirmed": (
            Level.CRASH,
            "the freezer did not confirm the thaw of the file systems in time",
        ),
        "adopted_before_held": (Level.FAILED, "the broker was restarted before it had noted that all apps were held"),
        "adopted_while_undoing": (Level.CRASH, "the broker was restarted while the hold was being undone"),
        "adopted_without_requester": (
            Level.CRASH,
            "the broker was restarted in the hold, and appvss freeze (user 0, process 12): pg_dump cannot ask for the "
            "thaw any more",
        ),
        "adopted_too_late": (
            Level.CRASH,
            "the broker was restarted in the hold, and the hold limit passed before it was there again",
        ),
        "journal_required": (Level.FAILED, "the journal could not be written: the disk is full"),
        "certificate_required": (Level.FAILED, "the certificate could not be written: the disk is read-only"),
        "unknown_reason": (Level.CRASH, "something of a newer version"),
    }
    for name, (level, sentence) in ends.items():
        yield name, cycle(level, HELD, ended_by=sentence)


def _filesystems() -> Iterator[tuple[str, CycleDetail]]:
    """Cycles whose verdict says more of a file system than its sentence."""
    unfrozen = "the file systems could not be frozen: /srv cannot be frozen: it is so"
    yield "filesystem_busy", _with(cycle(Level.FAILED, HELD, ended_by=unfrozen), FilesystemOutcome.BUSY)
    yield "filesystem_unfreezable", _with(cycle(Level.FAILED, HELD, ended_by=unfrozen), FilesystemOutcome.UNFREEZABLE)
    doubt = "/srv is not frozen: it has no freeze"
    yield "filesystem_left_out", _with(cycle(Level.CRASH, HELD, notes=(doubt,)), FilesystemOutcome.UNFREEZABLE)


def _with(detail: CycleDetail, outcome: FilesystemOutcome) -> CycleDetail:
    parts = (FilesystemPart("/srv", "8:1", "exfat", outcome, "it is so"),)
    verdict = replace(detail.summary.verdict, filesystems=parts)
    return replace(detail, summary=replace(detail.summary, verdict=verdict))


def details() -> dict[str, CycleDetail]:
    """Every case but those that are about more than one cycle."""
    found = {name: cycle(level, HELD, one) for name, one, level in _outcomes()}
    found.update(_by_requirement())
    found.update(_ends())
    found.update(_filesystems())
    aside = "set aside by policy after 3 failures in a row, the last: timed_out: no ack within 2.0s"
    found["set_aside"] = cycle(Level.APPLICATION, HELD, part(Outcome.SKIPPED, aside, TOLERATED))
    refused = event("source_answered", f"freeze: no, cycle {CYCLE} of hyper-v host is under way (holding)")
    found["overlap_refused"] = cycle(Level.APPLICATION, HELD, events=(event("cycle_began", "freeze"), refused))
    found["level_application"] = cycle(Level.APPLICATION, HELD)
    found["level_filesystem"] = cycle(Level.FILESYSTEM, HELD, part(Outcome.HOLD_LOST, "the lock was taken away"))
    found["no_app_registered"] = cycle(Level.CRASH)
    found["no_app_held"] = cycle(Level.CRASH, part(Outcome.VETOED, "a schema change is running", TOLERATED))
    found["no_app_concerned"] = cycle(Level.FILESYSTEM, part(Outcome.SKIPPED, APART))
    notes = ("the journal could not be written: the disk is full", "the certificate could not be written: no space")
    found["history_tolerated"] = cycle(Level.APPLICATION, HELD, notes=notes)
    found["adopted_unproven"] = cycle(
        Level.CRASH,
        HELD,
        part(Outcome.HOLD_LOST, "its stream broke and it did not come back within 5.0s"),
        events=(event("cycle_adopted", "held, asked for by hyper-v host through freebsd"),),
    )
    adopted = event("cycle_adopted", "held, asked for by hyper-v host through freebsd")
    found["adopted_well"] = cycle(Level.APPLICATION, HELD, events=(adopted,))
    others = tuple(AppOutcome(AppId(f"app-{number}"), Outcome.SKIPPED, REQUIRED, 60) for number in range(3))
    found["many_not_asked"] = cycle(Level.FAILED, part(Outcome.VETOED, "a schema change is running"), *others)
    many = tuple(
        AppOutcome(AppId(f"app-{number:02}"), Outcome.TIMED_OUT, REQUIRED, 60, "no ack within 2.0s")
        for number in range(30)
    )
    found["many_failures"] = cycle(Level.FAILED, *many)
    for level in Level:
        bad = () if level is Level.APPLICATION else (part(Outcome.VETOED, "a schema change is running"),)
        name = f"rehearsal_{level}"
        found[name] = cycle(level, HELD, *bad, source="rehearsal", requester="appvss rehearse", rehearses=True)
    return found


def answers() -> dict[str, why.Answer]:
    """Every case, as `appvss why` shows it."""
    found = {
        name: why.Answer(None, detail, explain(detail, PEERS, "/var/lib/appvss"), None, "/var/lib/appvss")
        for name, detail in details().items()
    }
    bad, good = cycle(Level.CRASH), replace(cycle(Level.APPLICATION, HELD).summary, cycle="20260304T060607Z-d4e5f6")
    explained = explain(bad, PEERS)
    found["newest_is_fine"] = why.Answer(good, bad, explained, None, "")
    found["all_are_fine"] = why.Answer(good, None, None, None, "")
    found["no_cycle_yet"] = why.Answer(None, None, None, None, "")
    for stage in ("held", "freezing"):
        text = "{}" if stage == "held" else ""
        restored = RestoredMachine(CYCLE, "freebsd", "hyper-v host", TIME, stage, text)
        found[f"restored_{stage}"] = why.Answer(None, None, None, restored, "/var/lib/appvss")
    return found


def text_of(answer: why.Answer) -> str:
    """What the command writes, with the times of the zone UTC."""
    before, output = os.environ.get("TZ"), io.StringIO()
    os.environ["TZ"] = "UTC"
    time.tzset()
    try:
        with contextlib.redirect_stdout(output):
            why.show(answer)
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()
    return output.getvalue()


if __name__ == "__main__":
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    for name, answer in answers().items():
        (FOLDER / f"{name}.txt").write_text(text_of(answer), encoding="utf-8")
