"""`appvss history`: the cycles of the past, in a line each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from appvss.cli import documents, render
from appvss.cli.invocation import Invocation, json_option, runtime_directory_option
from appvss.cli.times import length_text, since_time
from appvss.model.app import Requirement
from appvss.model.duration import format_duration
from appvss.model.names import check_name
from appvss.model.verdict import Level, Outcome

if TYPE_CHECKING:
    from appvss.sdk.admin_cycles import CycleSummary

DEFAULT_LIMIT: Final = 20
_MOST: Final = 1_000_000


@click.command("history", short_help="List the cycles of the past, with what each was worth.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, _MOST),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="How many at most, the newest.",
)
@click.option(
    "--since",
    metavar="TIME|LENGTH",
    help="Only those since this time (2026-03-04T05:06:07Z), or this long back from now (2h, 3d).",
)
@click.option("--level", type=click.Choice([level.value for level in Level]), help="Only those of this level.")
@click.option("--app", metavar="NAME", help="Only those in which an app of this name was to take part.")
@runtime_directory_option
@json_option
@click.pass_obj
def history(invocation: Invocation, limit: int, since: str | None, level: str | None, app: str | None) -> None:
    """List the cycles of the past, newest first, those of earlier brokers among them.

    AGO is when it was asked for, HELD how long the snapshot could take, APPS how many held, of how many.
    Rehearsals are marked. `appvss show` has a cycle in full, `appvss why` what was wrong with it.
    """
    begin = None if since is None else since_time(since, datetime.now(UTC))
    if app is not None:
        check_name(app)
    is_filtered = level is not None or app is not None
    with invocation.client() as client:
        known = client.cycles(0 if is_filtered else limit, begin)
    found = [summary for summary in known if _fits(summary, level, app)][:limit]
    if invocation.as_json:
        render.document("history", {"cycles": [documents.summary(summary) for summary in found]})
    elif found:
        _show(found, datetime.now(UTC))
    else:
        what = " that fits" if is_filtered or since is not None else " yet"
        render.line(f"no cycle is known{what}")


def _fits(summary: CycleSummary, level: str | None, app: str | None) -> bool:
    verdict = summary.verdict
    if level is not None and verdict.level != level:
        return False
    return app is None or any(part.app.name == app for part in verdict.outcomes)


def _show(found: Sequence[CycleSummary], now: datetime) -> None:
    render.table(
        ("CYCLE", "LEVEL", "AGO", "TOOK", "HELD", "APPS", "SOURCE"),
        [
            (
                summary.cycle,
                summary.verdict.level.value,
                length_text(now - summary.time),
                format_duration(summary.took),
                "-" if summary.verdict.hold is None else format_duration(summary.verdict.hold),
                apps_text(summary),
                "rehearsal" if summary.rehearses else summary.source,
            )
            for summary in found
        ],
    )
    newest = next((summary for summary in found if summary.verdict.level is not Level.APPLICATION), None)
    if newest is not None:
        render.line()
        render.paragraph(f"What was wrong: `appvss why {newest.cycle}`.")


def apps_text(summary: CycleSummary) -> str:
    """How many apps held, of how many that count."""
    counted = [part for part in summary.verdict.outcomes if part.requirement is not Requirement.IGNORED]
    held = sum(part.outcome is Outcome.HELD for part in counted)
    return f"{held} of {len(counted)}"
