"""`appvss rehearse`: the whole cycle, again and again, without a snapshot; how long it takes and whether that fits."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import click

from appvss.cli import documents, render
from appvss.cli.invocation import Invocation, json_option, length_of_time, runtime_directory_option
from appvss.model.duration import format_duration
from appvss.model.errors import AppvssError, ExitCode

if TYPE_CHECKING:
    from appvss.cli.rehearsal import Figures, RehearsalReport, SourceFit
    from appvss.sdk.admin import AdminClient
    from appvss.sdk.admin_cycles import Rehearsal

_MOST: Final = 10_000
_SIGINT_EXIT: Final = 130


@click.command("rehearse", short_help="Freeze and thaw the apps without a snapshot; see how long it takes.")
@click.option(
    "--count",
    metavar="N",
    type=click.IntRange(1, _MOST),
    default=5,
    show_default=True,
    help="How many rounds, one after the other.",
)
@click.option(
    "--freeze-budget",
    metavar="LENGTH",
    callback=length_of_time,
    help="The time for prepare and freeze together, such as 10s. Else as configured for local requests.",
)
@runtime_directory_option
@json_option
@click.pass_obj
def rehearse(invocation: Invocation, count: int, freeze_budget: timedelta | None) -> int:
    """Carry out the whole cycle with no file-system freeze and no snapshot, and say how long it takes.

    Every app prepares, freezes, is held for a moment and thawed; those that the policy sets aside are asked, too. It
    may be done in production: it costs what a snapshot would cost the apps. For each app: how long it took to freeze
    (p50, p99, the longest) and its outcomes. For each source: whether the p99 of the whole would be within its time,
    and how long it could hold before the first app's own limit passes.

    Ctrl-C ends it and prints what there is. Code 0: all held, and it fits. Code 10: some round would not have been
    application-consistent. Code 13: a source that serves gives too little time. Code 9: another cycle was under way.
    """
    with invocation.client() as client:
        rounds, stop = _rounds(client, count, freeze_budget, is_told=not invocation.as_json)
        if not rounds:
            if isinstance(stop, AppvssError):
                raise stop
            return _SIGINT_EXIT
        from appvss.cli.rehearsal import report  # after the rounds: nothing is imported while apps are held

        try:
            together = report(rounds, client.apps(), client.status().sources)
        except AppvssError as error:
            together, stop = report(rounds, (), ()), stop or error
    if invocation.as_json:
        render.document("rehearse", documents.rehearsal(together))
    else:
        _show(together)
    if isinstance(stop, AppvssError):
        raise stop
    return _SIGINT_EXIT if stop is not None else _exit_code(together)


def _rounds(
    client: AdminClient, count: int, freeze_budget: timedelta | None, *, is_told: bool
) -> tuple[list[Rehearsal], AppvssError | KeyboardInterrupt | None]:
    """The rounds, and what ended them before their time."""
    requester = f"appvss rehearse (user {os.getuid()}, process {os.getpid()})"
    rounds: list[Rehearsal] = []
    try:
        for number in range(1, count + 1):
            rounds.append(client.rehearse(requester, freeze_budget))
            if is_told:
                one = rounds[-1]
                length = format_duration(one.time_to_freeze)
                render.note(f"round {number} of {count}: {one.summary.verdict.level}, frozen in {length}")
    except (AppvssError, KeyboardInterrupt) as reason:
        return rounds, reason
    return rounds, None


def _exit_code(together: RehearsalReport) -> int:
    if not together.all_held:
        return ExitCode.NOT_CONSISTENT
    return ExitCode.SUCCESS if together.fits else ExitCode.UNFIT


def _show(together: RehearsalReport) -> None:
    if together.apps:
        render.table(("APP", "P50", "P99", "LONGEST", "OUTCOMES"), _app_rows(together))
        for one in together.apps:
            if one.reason:
                render.paragraph(f"{one.app}: {one.reason}", rest="  ")
    else:
        render.line("no app is registered: there was nothing to freeze")
    if together.sources:
        render.line()
        render.table(
            ("SOURCE", "APPS GET", "P99", "LEFT", "HOLD UP TO", "SAFE UP TO", "FITS"),
            [_source_row(fit, together.time_to_freeze) for fit in together.sources],
        )
    render.line()
    for sentence in _sentences(together):
        render.paragraph(sentence)


def _app_rows(together: RehearsalReport) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            str(one.app),
            *_figures(one.time_to_freeze),
            ", ".join(f"{outcome} {times}" for outcome, times in one.outcomes.items()),
        )
        for one in together.apps
    ]
    rows.append(("all together", *_figures(together.time_to_freeze), _counted(len(together.rounds))))
    if together.time_to_prepare is not None:
        rows.append(("to prepare", *_figures(together.time_to_prepare), ""))
    return rows


def _counted(rounds: int) -> str:
    return "1 round" if rounds == 1 else f"{rounds} rounds"


def _figures(value: Figures | None) -> tuple[str, str, str]:
    if value is None:
        return "-", "-", "-"
    return format_duration(value.p50), format_duration(value.p99), format_duration(value.most)


def _source_row(fit: SourceFit, whole: Figures | None) -> tuple[str, ...]:
    return (
        fit.source,
        _length(fit.limit),
        _length(whole.p99 if whole else None),
        _length(fit.margin),
        _length(fit.hold_limit),
        _length(fit.safe_hold),
        ("yes" if fit.fits else "no") + ("" if fit.counts else ", not serving"),
    )


def _length(length: timedelta | None) -> str:
    return "-" if length is None else format_duration(length)


def _sentences(together: RehearsalReport) -> list[str]:
    """The result in words, the gravest first."""
    said = []
    bad = next((one.summary for one in together.rounds if one.summary.verdict.reasons), None)
    failed = sum(one.summary.verdict.level != "application" for one in together.rounds)
    if failed:
        said.append(
            f"{failed} of {len(together.rounds)} rounds would not have been application-consistent. "
            + (f"Why, and what to do: `appvss why {bad.cycle}`." if bad else "")
        )
    for fit in together.sources:
        if not fit.counts:
            continue
        if fit.margin is not None and fit.margin < timedelta(0):
            said.append(
                f"{fit.source} gives the apps {_length(fit.limit)}, which is {_length(-fit.margin)} too short for the "
                "slowest rounds: let slow work be done in `prepare`, give one order to apps that need not wait for "
                "each other, or give more time in the configuration."
            )
        if fit.safe_hold is not None and fit.hold_limit is not None and fit.safe_hold < fit.hold_limit:
            said.append(
                f"{fit.source} may hold for {_length(fit.hold_limit)}, and {fit.shortest} lets go by itself "
                f"{_length(max(fit.safe_hold, timedelta(0)))} after the answer: a snapshot that takes longer than "
                "that loses it."
            )
    return said or ["All apps held, and every source that serves gives them enough time."]
