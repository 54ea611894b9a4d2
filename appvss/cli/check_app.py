"""`appvss check-app`: play a host and a broker with all their moods against anybody's app, and report."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

from appvss.cli import render
from appvss.cli.documents import Fields, seconds
from appvss.cli.invocation import Invocation, json_option, length_of_time
from appvss.model.errors import AppUnfit, UsageError
from appvss.model.names import printable

if TYPE_CHECKING:
    from appvss.testing.conformance import Case, Report, Result, Subject

_SIGNAL_BASE: Final = 128
_TEXT_LIMIT: Final = 2000


def _command_line(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    try:
        words = tuple(shlex.split(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} cannot be read: {str(error).lower()}") from error
    if not words:
        raise click.BadParameter("it is empty")
    return words


@click.command(
    "check-app",
    short_help="Play a broker with all its moods against your own app, and report.",
    context_settings={"allow_interspersed_args": False},
)
@click.option("--app", metavar="NAME", default="", help="Which app, if COMMAND brings several: name or name[instance].")
@click.option(
    "--writable",
    metavar="COMMAND",
    callback=_command_line,
    help="A command that writes to the application; code 0: the write went through. Without it nobody can tell.",
)
@click.option("--holds-writes", is_flag=True, help="It is promised that no write goes through in a hold.")
@click.option(
    "--restart-with", metavar="COMMAND", callback=_command_line, help="Start this in place of COMMAND after its end."
)
@click.option("--only", metavar="CASE", multiple=True, help="Play this case. Several times: these.")
@click.option("--list", "is_list", is_flag=True, help="List the cases, and play none.")
@click.option(
    "--hold-limit", metavar="LENGTH", callback=length_of_time, help="The hold limit that is let pass. Else 1s."
)
@click.option(
    "--budget", metavar="LENGTH", callback=length_of_time, help="The time to prepare and to get quiet. Else 10s."
)
@click.option(
    "--margin", metavar="LENGTH", callback=length_of_time, help="How late a word may be: for slow machines. Else 1s."
)
@click.option(
    "--released-within",
    metavar="LENGTH",
    callback=length_of_time,
    help="From the end of a hold to the first write. Else 2s.",
)
@click.option(
    "--attach-within", metavar="LENGTH", callback=length_of_time, help="From the start to the app's coming. Else 20s."
)
@click.option(
    "--end-within", metavar="LENGTH", callback=length_of_time, help="From SIGTERM to the end of COMMAND. Else 10s."
)
@click.option("--cycles", metavar="N", type=click.IntRange(1, 10_000), help="How many cycles in a row. Else 20.")
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def check_app(
    invocation: Invocation,
    /,
    command: tuple[str, ...],
    only: tuple[str, ...],
    is_list: bool,
    **given: str | bool | int | tuple[str, ...] | timedelta | None,
) -> None:
    """Start COMMAND, a program in any language that brings an app, and check whether the app keeps the contract.

    COMMAND finds a broker in APPVSS_RUNTIME_DIRECTORY that is played by this command: it freezes and thaws, twice,
    too late, without a freeze; gives too little time; dies in the hold and comes back, or does not; says what no app
    knows. COMMAND is stopped, asked to end and killed in its hold, and started again. No running broker takes part,
    and no file system is frozen. Do not run it against data that are in use: it holds the application many times.

    Each case ends as passed, failed (with what was expected, what was seen, and what to do) or skipped (with the
    reason). Code 0: no case failed. Code 13: one did. Code 8: COMMAND cannot be started. Code 12: its app does not
    come.
    """
    from appvss.testing.conformance import Subject, check

    cases = _chosen(only)
    if is_list:
        _list(invocation, cases)
        return
    if not command:
        raise click.UsageError("no COMMAND was named", click.get_current_context())
    subject = Subject(command, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # click gives each option its type
    with _ended_by_signals():
        report = check(subject, cases, told=None if invocation.as_json else _show)
    if invocation.as_json:
        render.document("check_app", document(subject, report))
    else:
        render.line()
        render.line(_summary(report))
    _raise_unless_fit(report)


def _chosen(only: Sequence[str]) -> list[Case]:
    from appvss.testing.conformance import CASES

    known = {case.name: case for case in CASES}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise UsageError(
            f"there is no case {printable(unknown[0])}", "`appvss check-app --list` has the names of all of them."
        )
    return [case for case in CASES if not only or case.name in only]


def _list(invocation: Invocation, cases: Sequence[Case]) -> None:
    if invocation.as_json:
        listed = [{"name": case.name, "expected": case.expected} for case in cases]
        render.document("check_app_cases", {"cases": listed})
        return
    render.rows([(case.name, case.expected) for case in cases])


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the check as Ctrl-C does: with the program that it has started.

    That takes its bounded time, in which another signal would leave the program behind, stopped or held.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise click.exceptions.Exit(_SIGNAL_BASE + number)

    known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in known.items() if handler is not signal.SIG_IGN}  # as nohup has it
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            with contextlib.suppress(TypeError):  # it was not set by Python
                signal.signal(number, handler)


def _show(result: Result) -> None:
    render.graded(str(result.status), "", f"{result.case.name}: {printable(result.seen, _TEXT_LIMIT)}")
    if str(result.status) != "failed":
        return
    render.paragraph(printable(result.expected, _TEXT_LIMIT), "         expected: ")
    render.paragraph(printable(result.hint, _TEXT_LIMIT), "         hint: ")
    for line in result.output.splitlines():
        render.line(f"         | {line}")


def _counts(report: Report) -> dict[str, int]:
    from appvss.testing.conformance import Status

    return {str(status): len(report.of(status)) for status in Status}


def _summary(report: Report) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in _counts(report).items())
    return f"{report.app}: {len(report.results)} cases: {counts}"


def _raise_unless_fit(report: Report) -> None:
    from appvss.testing.conformance import Status

    failed = report.of(Status.FAILED)
    if failed:
        names = ", ".join(result.case.name for result in failed)
        raise AppUnfit(
            f"{len(failed)} of {len(report.results)} cases failed: {names}",
            "Each says above what was expected, what was seen and what to do; --only plays one of them again.",
        )


def document(subject: Subject, report: Report) -> Fields:
    """The report as a JSON object (docs/reference/json.md)."""
    return {
        "app": report.app,
        "library": report.library or None,
        "command": list(subject.command),
        "fit": report.fit,
        **_counts(report),
        "cases": [case_document(result) for result in report.results],
    }


def case_document(result: Result) -> Fields:
    """One case's end as a JSON object."""
    return {
        "name": result.case.name,
        "status": str(result.status),
        "expected": result.expected,
        "seen": result.seen,
        "hint": result.hint or None,
        "took_seconds": seconds(result.took),
        "output": result.output.splitlines(),
    }
