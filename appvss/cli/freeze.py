"""`appvss freeze`: freeze the apps, run a command inside the hold, thaw them."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from appvss.cli import documents, render
from appvss.cli.invocation import Invocation, json_option, length_of_time, runtime_directory_option
from appvss.model.app import Requirement
from appvss.model.duration import format_duration
from appvss.model.errors import UsageError
from appvss.model.names import printable

if TYPE_CHECKING:
    from appvss.cli.freeze_run import FreezeReport
    from appvss.model.verdict import Verdict


@click.command(
    "freeze",
    short_help="Freeze the apps, run a command, thaw them.",
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "--hold-limit", metavar="LENGTH", callback=length_of_time, help="The longest hold, such as 30s. Else as configured."
)
@click.option(
    "--freeze-budget",
    metavar="LENGTH",
    callback=length_of_time,
    help="The time for prepare and freeze together, such as 20s. Else as configured.",
)
@runtime_directory_option
@json_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def freeze(
    invocation: Invocation, hold_limit: timedelta | None, freeze_budget: timedelta | None, command: tuple[str, ...]
) -> int:
    """Freeze the apps, run COMMAND while all are held, thaw them.

    COMMAND gets the cycle's id in APPVSS_CYCLE, and the standard streams; -- may stand before it. It is looked up
    before anything is frozen, and it is not run when the apps cannot all be frozen (code 9). The verdict is written to
    stderr, or with --json to stdout as the last line, after all that COMMAND has written.

    Ctrl-C, SIGTERM and SIGHUP end the hold at once and terminate COMMAND (code 128 plus the signal's number). When the
    broker ends the hold while COMMAND runs, COMMAND is terminated, since its snapshot would be worth nothing (code 10).
    Code 11: COMMAND failed. Code 10: the verdict is not application. Code 0: COMMAND succeeded, and all apps were held.
    """
    from appvss.cli.freeze_run import FreezeRun  # with gRPC behind it

    executable = _executable(command[0])
    with invocation.client() as client:
        report = FreezeRun(client, executable, command).run(freeze_budget=freeze_budget, hold_limit=hold_limit)
    if invocation.as_json:
        render.document("freeze", documents.freeze(report))
    else:
        _show(report)
    return report.exit_code


def _executable(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        what = "is not there or may not be executed" if os.sep in name else "is not on the PATH"
        raise UsageError(
            f"the command {printable(name)} {what}", "Nothing was frozen. Name a program that this user may execute."
        )
    return path


def _show(report: FreezeReport) -> None:
    for sentence in report.sentences:
        render.note(f"appvss: {sentence}")
    if report.verdict is not None:
        _show_verdict(report.verdict)


def _show_verdict(verdict: Verdict) -> None:
    held = "" if verdict.hold is None else f", held for {format_duration(verdict.hold)}"
    render.note(f"appvss: cycle {verdict.cycle}: {verdict.level}{held}")
    for reason in verdict.reasons:
        render.note(f"  - {reason}")
    for outcome in verdict.outcomes:
        if outcome.is_failure and outcome.requirement is Requirement.IGNORED:  # the reasons name all others
            reason = f": {outcome.reason}" if outcome.reason else ""
            render.note(f"  {outcome.app} ({outcome.requirement}) {outcome.outcome}{reason}")
