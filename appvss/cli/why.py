"""`appvss why`: in words, why a snapshot was not application-consistent, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from appvss.cli import documents, render
from appvss.cli.explanation import Doubt, Explanation, explain
from appvss.cli.invocation import Invocation, json_option, runtime_directory_option
from appvss.cli.lookup import find_cycle
from appvss.cli.times import local_time
from appvss.model.duration import format_duration
from appvss.model.verdict import Level

if TYPE_CHECKING:
    from appvss.sdk.admin import AdminClient
    from appvss.sdk.admin_cycles import CycleDetail, CycleSummary
    from appvss.sdk.admin_values import BrokerStatus, RestoredMachine

NAMED: Final = 20
"""How many apps that failed in one way are named for people; JSON has all."""
_STAGES: Final = {
    "freezing": "not every app was frozen yet",
    "held": "every app was held then",
    "ending": "that cycle had failed already, and its apps were being let go",
}
"""How far a cycle had come whose hold a disk was copied in."""
_TRY_IT: Final = "Try the whole way without a snapshot: `appvss rehearse`."


@dataclass(frozen=True, slots=True)
class Answer:
    """What there is to say."""

    newest: CycleSummary | None
    """The last cycle that was no rehearsal. None: there is none, or a cycle was named."""
    detail: CycleDetail | None
    """The cycle that is explained. None: there is nothing to explain."""
    explanation: Explanation | None
    restored: RestoredMachine | None
    """None: it is none, or a cycle was named."""
    state_directory: str
    """The broker's."""


@click.command("why", short_help="Say why the last snapshot was not application-consistent, and what to do.")
@runtime_directory_option
@json_option
@click.argument("cycle", required=False)
@click.pass_obj
def why(invocation: Invocation, cycle: str | None) -> None:
    """Say in words why a snapshot was not application-consistent, who was to blame, and what to do next.

    CYCLE is an id or its unique beginning. Without it, it is the last cycle that was no rehearsal and not
    application-consistent; when the newest one was fine, that is said first.

    Ends with code 0 whatever the answer is, and with code 8 when no such cycle is known.
    """
    with invocation.client() as client:
        answer = _answer(client, cycle)
    if invocation.as_json:
        render.document("why", document(answer))
    else:
        show(answer)


def _answer(client: AdminClient, word: str | None) -> Answer:
    status = client.status()
    if word is not None:
        return _about(client, status, None, find_cycle(client, word), restored=None)
    cycles = [summary for summary in client.cycles() if not summary.rehearses]
    newest = cycles[0] if cycles else None
    bad = next((summary for summary in cycles if summary.verdict.level is not Level.APPLICATION), None)
    if bad is None and newest is not None and newest.verdict.reasons:
        bad = newest  # nothing lowers it, and it has something to say
    return _about(client, status, newest, client.cycle(bad.cycle) if bad else None, restored=status.restored)


def _about(
    client: AdminClient,
    status: BrokerStatus,
    newest: CycleSummary | None,
    detail: CycleDetail | None,
    *,
    restored: RestoredMachine | None,
) -> Answer:
    explanation = None
    if detail is not None:
        peers = {value.app: value.peer for value in client.apps() if value.state != "absent"}
        explanation = explain(detail, peers, status.history.directory)
    return Answer(newest, detail, explanation, restored, status.history.directory)


def document(answer: Answer) -> documents.Fields:
    """The answer as a JSON object."""
    explanation = answer.explanation
    return {
        "cycle": None if answer.detail is None else documents.summary(answer.detail.summary),
        "newest_cycle": None if answer.newest is None else documents.summary(answer.newest),
        "meaning": explanation.meaning if explanation else None,
        "advice": (explanation.advice or None) if explanation else None,
        "doubts": [documents.doubt(doubt) for doubt in explanation.doubts] if explanation else [],
        "restored": None if answer.restored is None else documents.restored(answer.restored),
    }


def show(answer: Answer) -> None:
    """The answer for people."""
    if answer.restored is not None:
        _show_restored(answer.restored, answer.state_directory or "DIRECTORY")
    if answer.detail is None or answer.explanation is None:
        _show_nothing(answer)
        return
    summary = answer.detail.summary
    newest = answer.newest
    if newest is not None and newest.cycle != summary.cycle:
        when = local_time(newest.time)
        render.paragraph(f"The last snapshot was fine: cycle {newest.cycle} of {when} is application-consistent.")
        render.paragraph("The last one that was not:")
        render.line()
    _show_head(summary)
    _show_explanation(answer.explanation)


def _show_nothing(answer: Answer) -> None:
    if answer.newest is None:
        render.paragraph("No cycle is known yet, so there is nothing to explain.")
        render.paragraph(_TRY_IT, "NEXT  ")
        return
    when = local_time(answer.newest.time)
    render.paragraph(f"The last snapshot was fine: cycle {answer.newest.cycle} of {when} is application-consistent.")
    render.paragraph("No cycle that is known was anything less.")


def _show_restored(restored: RestoredMachine, directory: str) -> None:
    stage = _STAGES.get(restored.stage, f"the cycle was at the stage {restored.stage}")
    render.paragraph(
        f"This machine was restored from cycle {restored.cycle}, asked for by {restored.requester} "
        f"({restored.source}), or lost its power in it: its disk is as it was in that cycle, and {stage}. Nothing is "
        "held any more."
    )
    if restored.certificate:
        render.paragraph(f"See what the copy proves: `appvss certificate verify {directory}`.", "NEXT  ")
    render.line()


def _show_head(summary: CycleSummary) -> None:
    took = format_duration(summary.took)
    word = "rehearsal" if summary.rehearses else "cycle"
    render.line(f"{word} {summary.cycle}: {summary.verdict.level}")
    render.paragraph(f"asked for by {summary.requester} ({summary.source}), {local_time(summary.time)}, took {took}")
    render.line()


def _show_explanation(explanation: Explanation) -> None:
    render.paragraph(explanation.meaning + (f" {explanation.advice}" if explanation.advice else ""))
    if not explanation.doubts:
        render.paragraph("Nothing speaks against it.")
    groups: dict[tuple[str, str, object], list[Doubt]] = {}
    for doubt in explanation.doubts:
        # A thousand apps that fail in one way are one thing to mend.
        alike = doubt.kind, doubt.consequence, None if doubt.app is not None else doubt.sentence
        groups.setdefault(alike, []).append(doubt)
    for number, group in enumerate(groups.values(), 1):
        render.line()
        _show_doubt(number, group[0], group[1:])


def _show_doubt(number: int, doubt: Doubt, alike: Sequence[Doubt]) -> None:
    text = f"{doubt.sentence} {doubt.consequence}".rstrip()
    render.paragraph(text, f"{number}. ".ljust(4), "    ")
    if doubt.who:
        render.paragraph(doubt.who, "    WHO   ", " " * 10)
    if alike:
        more = f" and {len(alike) - NAMED} more" if len(alike) > NAMED else ""
        names = ", ".join(str(one.app) for one in alike[:NAMED])
        render.paragraph(f"in the same way: {names}{more}", "    ALSO  ", " " * 10)
    for step in doubt.next_steps:
        render.paragraph(step, "    NEXT  ", " " * 10)
