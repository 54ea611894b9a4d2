"""`appvss show`: one cycle in full."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from appvss.cli import documents, render
from appvss.cli.filesystem_table import show_parts
from appvss.cli.invocation import Invocation, json_option, runtime_directory_option
from appvss.cli.lookup import find_cycle
from appvss.cli.times import local_time
from appvss.model.duration import format_duration
from appvss.model.names import printable
from appvss.model.verdict import Level

if TYPE_CHECKING:
    from appvss.model.verdict import AppOutcome, Verdict
    from appvss.sdk.admin_cycles import BrokerEvent, CycleDetail, CycleSummary


@click.command("show", short_help="Show one cycle in full: apps, times, evidence, and what happened when.")
@runtime_directory_option
@json_option
@click.argument("cycle")
@click.pass_obj
def show(invocation: Invocation, cycle: str) -> None:
    """Show one cycle in full: the request, every app with its times and evidence, the file systems, the
    reasons, and what happened when.

    CYCLE is an id or its unique beginning; `appvss history` lists them. Ends with code 8 when no such cycle is known.
    """
    with invocation.client() as client:
        detail = find_cycle(client, cycle)
    if invocation.as_json:
        render.document("cycle", documents.cycle(detail))
        return
    _show_request(detail)
    _show_reasons(detail.summary.verdict)
    _show_apps(detail.summary.verdict)
    if detail.summary.verdict.filesystems:
        render.line()
        show_parts(detail.summary.verdict.filesystems)
    _show_events(detail.events)
    if detail.summary.verdict.level is not Level.APPLICATION:
        render.line()
        render.paragraph(f"In words, with what to do next: `appvss why {detail.summary.cycle}`.")


def _show_request(detail: CycleDetail) -> None:
    summary = detail.summary
    verdict = summary.verdict
    rows = [
        ("rehearsal" if summary.rehearses else "cycle", summary.cycle),
        ("level", verdict.level.value),
        ("asked for", f"by {summary.requester} ({summary.source}), {local_time(summary.time)}"),
        ("took", f"{format_duration(summary.took)}, {summary.phase or 'ended in a phase that is not known here'}"),
        ("held", _held(summary)),
        ("certificate", _certificate(detail)),
    ]
    render.rows(rows)


def _held(summary: CycleSummary) -> str:
    if summary.verdict.hold is None:
        return "nothing"
    return f"{format_duration(summary.verdict.hold)}, from the last ack to the thaw"


def _certificate(detail: CycleDetail) -> str:
    if not detail.certificate:
        return "none"
    return f"{len(detail.certificate)} characters, in --json; the disk that was copied carries it, too"


def _show_reasons(verdict: Verdict) -> None:
    if verdict.reasons:
        render.line()
        for reason in verdict.reasons:
            render.paragraph(reason, "- ")


def _show_apps(verdict: Verdict) -> None:
    render.line()
    if not verdict.outcomes:
        render.line("no app was registered, and none was expected")
        return
    render.table(
        ("APP", "OUTCOME", "GRADE", "REQUIREMENT", "ORDER", "FROZE IN", "HELD FOR"),
        [
            (
                str(part.app),
                part.outcome.value,
                "-" if part.grade is None else part.grade.value,
                part.requirement.value,
                str(part.order),
                _length(part.time_to_freeze),
                _length(part.hold),
            )
            for part in verdict.outcomes
        ],
    )
    for part in verdict.outcomes:
        _show_words(part)


def _show_words(part: AppOutcome) -> None:
    """What does not fit into a table: reason and evidence."""
    if part.reason:
        again = " (trying again soon may help)" if part.retryable else ""
        render.paragraph(f"{part.app}: {part.reason}{again}", rest="  ")
    for key, value in part.evidence.items():
        render.paragraph(f"{part.app}: {printable(key)} = {printable(value)}", rest="  ")


def _length(length: timedelta | None) -> str:
    return "-" if length is None else format_duration(length)


def _show_events(events: tuple[BrokerEvent, ...]) -> None:
    render.line()
    if not events:
        render.line("what happened in it is not kept any more")
        return
    for event in events:
        offset = "" if event.since_request is None else "+" + format_duration(event.since_request)
        took = "" if event.took is None else f"took {format_duration(event.took)}"
        phase = f"-> {event.phase}" if event.kind == "phase_changed" and event.phase else ""
        rest = "  ".join(text for text in (event.app, phase, took, event.detail) if text)
        render.paragraph(rest, f"{offset:>9}  {event.kind:<18}  ")
