"""`appvss freeze`: freeze apps and file systems, run a command inside the hold, thaw them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from appvss.cli import documents, render
from appvss.cli.filesystem_options import choice_of, mount_option
from appvss.cli.filesystem_table import is_worth_a_line, sentence_of
from appvss.cli.held_files import HeldFiles
from appvss.cli.invocation import Invocation, json_option, length_of_time, runtime_directory_option
from appvss.cli.nesting import refuse_nesting
from appvss.model.app import Requirement
from appvss.model.duration import format_duration
from appvss.model.errors import UsageError
from appvss.model.filesystem import FilesystemOutcome, Scope
from appvss.model.grade import Grade
from appvss.model.names import printable

if TYPE_CHECKING:
    from appvss.model.filesystem import FilesystemChoice
    from appvss.model.verdict import Verdict
    from appvss.sdk.admin import AdminClient


@click.command(
    "freeze",
    short_help="Freeze apps and file systems, run a command, thaw them.",
    context_settings={"allow_interspersed_args": False},
)
@mount_option("Freeze this mounted file system. Several times: these.")
@click.option("--all", "everything", is_flag=True, help="Freeze every file system of this machine's own disks.")
@click.option("--no-filesystems", "none", is_flag=True, help="Freeze the apps alone.")
@click.option("--force", is_flag=True, help="Freeze / as well, although the terminal may hang until the thaw.")
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
    invocation: Invocation,
    mounts: tuple[str, ...],
    everything: bool,
    none: bool,
    force: bool,
    hold_limit: timedelta | None,
    freeze_budget: timedelta | None,
    command: tuple[str, ...],
) -> int:
    """Freeze the apps and then file systems, run COMMAND while all are held, thaw them.

    Frozen are the file systems on which the registered apps have the paths that they declare, but not / since the
    terminal would hang; or those that --mount, --all or --no-filesystems name. `appvss filesystems` shows them before.
    Whatever COMMAND writes must go elsewhere: its output through a pipe, its files to another file system.

    COMMAND gets the cycle's id in APPVSS_CYCLE, and the standard streams; -- may stand before it. It is started, and
    waits, before anything is frozen, and it is not let go on when not all can be frozen (code 9). The verdict is
    written to stderr, or with --json to stdout as the last line, after all that COMMAND has written.

    Ctrl-C, SIGTERM and SIGHUP end the hold at once and terminate COMMAND (code 128 plus the signal's number). When the
    broker ends the hold while COMMAND runs, COMMAND is terminated, since its snapshot would be worth nothing (code 10).
    Code 11: COMMAND failed. Code 10: the verdict is not application. Code 0: COMMAND succeeded, and all apps were held.
    """
    from appvss.cli.freeze_run import FreezeRun  # with gRPC behind it

    refuse_nesting()
    executable = _executable(command[0])
    choice = choice_of({"--all": everything, "--no-filesystems": none}, mounts, Scope.DECLARED, spares_root=not force)
    sys.dont_write_bytecode = True  # its folder may be frozen
    with invocation.client() as client:
        notes = _look(client, choice, may_take_root=force)
        if not invocation.as_json:
            _say(notes)
        run = FreezeRun(client, executable, command, notes)
        report = run.run(freeze_budget=freeze_budget, hold_limit=hold_limit, filesystems=choice)
    if invocation.as_json:
        render.document("freeze", documents.freeze(report))
    else:
        _say(report.sentences[len(notes) :])
        if report.verdict is not None:
            _show_verdict(report.verdict)
    return report.exit_code


def _look(client: AdminClient, choice: FilesystemChoice, *, may_take_root: bool) -> list[str]:
    """Look at what would be frozen, before it is; what there is to say of it.

    Raises:
        AppvssError: the broker cannot say it, or a command could not run in such a hold.
    """
    if choice.scope is Scope.NONE:
        return []
    survey = client.filesystems(choice)
    files = HeldFiles(survey)
    files.check(may_take_root=may_take_root)
    left = [one for one in survey.left if one.outcome is FilesystemOutcome.EXCLUDED and choice.scope is not Scope.ALL]
    return [*(f"{one.path} is not frozen: {one.reason}" for one in left), *files.notes()]


def _executable(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        what = "is not there or may not be executed" if os.sep in name else "is not on the PATH"
        raise UsageError(
            f"the command {printable(name)} {what}", "Nothing was frozen. Name a program that this user may execute."
        )
    return path


def _say(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        render.note(f"appvss: {sentence}")


def _show_verdict(verdict: Verdict) -> None:
    held = "" if verdict.hold is None else f", held for {format_duration(verdict.hold)}"
    render.note(f"appvss: cycle {verdict.cycle}: {verdict.level}{held}")
    for reason in verdict.reasons:
        render.note(f"  - {reason}")
    for outcome in verdict.outcomes:
        is_said = (outcome.is_failure or outcome.is_lessened) and outcome.requirement is not Requirement.IGNORED
        if (outcome.reason or outcome.is_failure) and not is_said:  # the reasons name all others
            reason = f": {outcome.reason}" if outcome.reason else ""
            render.note(f"  {outcome.app} ({outcome.requirement}) {outcome.outcome}{reason}")
    worth = [f"{part.app} {part.grade}" for part in verdict.outcomes if part.grade not in (None, Grade.APP)]
    if worth:
        render.note(f"  worth less than `app`: {', '.join(worth)}")
    frozen = ", ".join(part.path for part in verdict.filesystems if part.outcome is FilesystemOutcome.HELD)
    if frozen:
        render.note(f"  frozen: {frozen}")
    for part in verdict.filesystems:
        if is_worth_a_line(part) and not any(part.path in reason for reason in verdict.reasons):
            render.note(f"  {sentence_of(part)}")
