"""`appvss status`: the broker at one glance, and the policy in force."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from appvss.cli import documents, render
from appvss.cli.filesystem_table import freezer_rows
from appvss.cli.invocation import Invocation, json_option, runtime_directory_option
from appvss.cli.policy_table import show_policy
from appvss.cli.times import length_text, local_time
from appvss.model.duration import format_duration
from appvss.model.verdict import Level

if TYPE_CHECKING:
    from appvss.sdk.admin_cycles import CycleSummary
    from appvss.sdk.admin_values import BrokerStatus, HistoryStatus, RestoredMachine, SourceStatus


@click.command("status", short_help="Show the broker at one glance.")
@click.option("--policy", is_flag=True, help="Show every value of the policy in force, and where it comes from.")
@runtime_directory_option
@json_option
@click.pass_obj
def status(invocation: Invocation, policy: bool) -> None:
    """Show the broker at one glance: sources, apps, the running cycle, the last one, the history.

    Ends with code 4 when no broker is running.
    """
    with invocation.client() as client:
        value = client.status()
    if invocation.as_json:
        render.document("status", documents.status(value))
    elif not policy:
        _show(value)
    elif value.policy:
        show_policy(value.policy)
    else:
        render.line("this broker does not say which policy is in force")


def _show(value: BrokerStatus) -> None:
    render.rows(list(_rows(value)))
    render.line()
    render.table(
        ("SOURCE", "MODE", "CONDITION", "FOR", "APPS GET", "HOLD", "OVERLAP"),
        [_source_row(source) for source in value.sources],
    )
    for source in value.sources:
        if source.detail:
            render.paragraph(f"{source.name}: {source.detail}", rest="  ")


def _rows(value: BrokerStatus) -> Iterator[tuple[str, str]]:
    yield "broker", f"{value.broker}, process {value.pid}, running for {length_text(value.uptime)}"
    yield "sockets", value.runtime_directory
    yield "configuration", value.configuration or "built-in values"
    if value.history.condition:
        yield "history", _history_text(value.history)
    if value.restored is not None:
        yield "restored", _restored_text(value.restored)
    yield "cycle", _cycle_text(value)
    if value.held_for is not None:
        yield "held", _held_text(value)
    if value.freezer is not None:
        yield from freezer_rows(value.freezer)
    absent = f"; expected and not there: {', '.join(value.absent_apps)}" if value.absent_apps else ""
    aside = f"; set aside: {', '.join(value.apps_set_aside)}" if value.apps_set_aside else ""
    yield "apps", f"{value.apps} registered{absent}{aside}"
    yield "last cycle", _last_text(value.last_cycle)
    if value.last_cycle is not None:
        for reason in value.last_cycle.verdict.reasons:
            yield "", f"- {reason}"
        if value.last_cycle.verdict.level is not Level.APPLICATION:
            yield "", f"what to do: `appvss why {value.last_cycle.cycle}`"


def _source_row(source: SourceStatus) -> tuple[str, ...]:
    budget = "-" if source.budget is None else format_duration(source.budget - source.reserve)
    hold = "-" if source.hold_limit is None else format_duration(source.hold_limit)
    return (
        source.name,
        source.mode,
        source.condition,
        length_text(source.since),
        budget,
        hold,
        source.overlap or "-",
    )


def _history_text(history: HistoryStatus) -> str:
    condition = {
        "keeping": "kept",
        "failing": "FAILING, the disk does not take what there is to write",
        "in_memory": "IN MEMORY ALONE, lost with the broker",
    }.get(history.condition, history.condition)
    waiting = f", {history.waiting} waiting to be written" if history.waiting else ""
    detail = f": {history.detail}" if history.detail else ""
    cycles = f"{history.cycles} cycle{'' if history.cycles == 1 else 's'}"
    return f"{condition} in {history.directory}, {cycles}{waiting}{detail}"


def _restored_text(restored: RestoredMachine) -> str:
    return (
        f"THIS MACHINE WAS RESTORED FROM CYCLE {restored.cycle} (found {local_time(restored.time)}); nothing is held "
        "any more; `appvss why` says more"
    )


def _cycle_text(value: BrokerStatus) -> str:
    if not value.cycle:
        return "none is running"
    phase = (value.phase or "in an unknown phase").replace("_", " ")
    length = f" for {format_duration(value.phase_for)}" if value.phase_for is not None else ""
    return f"{value.cycle}, {phase}{length}"


def _held_text(value: BrokerStatus) -> str:
    held = format_duration(value.held_for) if value.held_for is not None else "-"
    left = "" if value.hold_left is None else f", {format_duration(value.hold_left)} left; `appvss thaw` ends it now"
    return f"everything, for {held}{left}"


def _last_text(value: CycleSummary | None) -> str:
    if value is None:
        return "none is known"
    what = "rehearsal, " if value.rehearses else ""
    return (
        f"{value.cycle}, {what}{value.verdict.level}, {local_time(value.time)}, took {format_duration(value.took)}, "
        f"asked for by {value.requester} ({value.source})"
    )
