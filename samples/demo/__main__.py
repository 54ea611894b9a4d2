"""The main job, end to end, with real processes. See the README for what it prints.

usage: python -m samples.demo [--local]

    a Hyper-V host (played)  ->  FreeBSD's app device (a real file)  ->  broker  ->  three apps, one of them a database

With `--local`, and wherever no device can be simulated, a local requester takes the host's place.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path

from appvss.model.errors import AppvssError
from appvss.model.verdict import Level, Outcome, Verdict
from appvss.sdk.admin import AdminClient
from samples.demo.proof import Proof, prove, take_snapshot, wait_for_rows
from samples.demo.screen import Screen
from samples.demo.stage import PATIENCE, DemoFailed, Reply, Stage, on_stage

ROWS = 200
"""Rows that the database writes before the first freeze, and after its thaw, so that there is something to lose."""
HOLD = 0.5
"""Seconds that the snapshot takes at least, so that writes inside the hold would show."""


def main() -> int:
    """Play the demo; 0 when everything was as promised."""
    screen = Screen()
    try:
        with tempfile.TemporaryDirectory(prefix="appvss-") as folder:
            screen.say("starting the device simulator, the broker and three apps")
            with on_stage(Path(folder), local="--local" in sys.argv[1:]) as stage:
                if stage.missing_device:
                    screen.say(f"no FreeBSD device here ({stage.missing_device}): a local requester takes its place")
                play(stage, screen)
        screen.say("everything was as promised; everything that was started has ended")
    except (DemoFailed, AppvssError, TimeoutError) as error:
        screen.say(f"[red]the demo failed:[/] {error}")
        return 1
    return 0


def play(stage: Stage, screen: Screen) -> None:
    """Three cycles: one that succeeds, one with a veto, one with an app that hangs."""
    with screen.timeline(AdminClient(stage.runtime)):
        screen.title(f"1 of 3: a snapshot ({stage.requester.title})")
        proof = good_cycle(stage, screen)
        screen.title("2 of 3: an app vetoes")
        stage.job.touch()
        failing_cycle(stage, screen, "nightly-job", Outcome.VETOED)
        stage.job.unlink()
        screen.title("3 of 3: an app hangs")
        hanging = stage.apps["smallest-threads"].process
        hanging.send_signal(signal.SIGSTOP)
        try:
            failing_cycle(stage, screen, "smallest-threads", Outcome.TIMED_OUT)
        finally:
            hanging.send_signal(signal.SIGCONT)
    screen.title("the proof: the copied database, opened as it is")
    tell(screen, proof)


def good_cycle(stage: Stage, screen: Screen) -> Proof:
    """Check, freeze, copy the files, thaw; then the copy is compared with the live database."""
    wait_for_rows(stage.database, ROWS)
    ask_check(stage)
    with screen.progress("freezing"):
        reply = stage.requester.freeze()
    if not reply.go_on:
        raise DemoFailed("the freeze was refused")
    frozen_at = time.time_ns()
    with screen.progress("everything is held: copying the files"):
        take_snapshot(stage.database.parent, stage.copy)
        time.sleep(HOLD)
    thawed_at = time.time_ns()
    reply = stage.requester.thaw()
    verdict = show_verdict(stage, screen)
    if not reply.go_on or verdict.level is not Level.APPLICATION:
        raise DemoFailed(f"the verdict is {verdict.level}: {'; '.join(verdict.reasons)}")
    wait_for_rows(stage.database, ROWS, since=thawed_at)
    return prove(stage.database, stage.copy / stage.database.name, frozen_at, thawed_at)


def failing_cycle(stage: Stage, screen: Screen, app: str, expected: Outcome) -> None:
    """Check and freeze; the requester must be told no, because of this app."""
    ask_check(stage)
    with screen.progress("freezing"):
        reply = stage.requester.freeze()
    verdict = show_verdict(stage, screen)
    outcomes = {part.app.name: part.outcome for part in verdict.outcomes}
    if reply.go_on or verdict.level is not Level.FAILED or outcomes[app] is not expected:
        raise DemoFailed(f"{app} should have been {expected}, and the freeze refused; the verdict is {verdict}")


def ask_check(stage: Stage) -> None:
    """The host's question whether a freeze would work, where there is one."""
    reply: Reply | None = stage.requester.check()
    if reply is not None and not reply.go_on:
        raise DemoFailed("the check was refused")


def show_verdict(stage: Stage, screen: Screen) -> Verdict:
    """Wait for the end of the cycle and show its verdict."""
    if not screen.wait_for_verdict(PATIENCE):
        raise DemoFailed("the cycle did not end")
    verdict = stage.client.cycles(limit=1)[0].verdict
    screen.verdict(verdict)
    return verdict


def tell(screen: Screen, proof: Proof) -> None:
    """The proof in words.

    Raises:
        DemoFailed: it does not hold.
    """
    screen.say(f"rows committed before the ack   {proof.committed:6}")
    screen.say(f"rows in the copy                {proof.copied:6}   missing {proof.missing}, too late {proof.late}")
    screen.say(f"rows written since the thaw     {proof.after:6}   none of them in the copy")
    screen.say(f"recovery log of the copy        {proof.log_bytes:6}   bytes, so no recovery is needed")
    screen.say(f"integrity check                 {proof.integrity:>6}")
    if not proof.holds:
        raise DemoFailed(f"the copy is not what it must be: {proof}")
    screen.say("[green]the copy has every row that was committed before the ack, and none after it[/]")


if __name__ == "__main__":
    sys.exit(main())
