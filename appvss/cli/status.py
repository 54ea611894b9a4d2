"""`appvss status`: the broker at one glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from appvss.cli import documents, render
from appvss.cli.invocation import Invocation, json_option, runtime_directory_option
from appvss.model.duration import format_duration

if TYPE_CHECKING:
    from appvss.sdk.admin_values import BrokerStatus, CycleSummary


@click.command("status", short_help="Show the broker at one glance.")
@runtime_directory_option
@json_option
@click.pass_obj
def status(invocation: Invocation) -> None:
    """Show the broker at one glance: sources, apps, the running cycle, the last one.

    Ends with code 4 when no broker is running.
    """
    with invocation.client() as client:
        value = client.status()
    if invocation.as_json:
        render.document("status", documents.status(value))
    else:
        _show(value)


def _show(value: BrokerStatus) -> None:
    absent = f", expected and not there: {', '.join(value.absent_apps)}" if value.absent_apps else ""
    rows = [
        ("broker", f"{value.broker}, process {value.pid}, running for {format_duration(value.uptime)}"),
        ("sockets", value.runtime_directory),
        ("configuration", value.configuration or "built-in values"),
        ("cycle", _cycle_text(value)),
        ("apps", f"{value.apps} registered{absent}"),
        ("last cycle", _last_text(value.last_cycle)),
    ]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        render.line(f"{name.ljust(width)}  {text}")
    for reason in value.last_cycle.verdict.reasons if value.last_cycle else ():
        render.line(f"{''.ljust(width)}  - {reason}")
    render.line()
    render.table(
        ("SOURCE", "MODE", "CONDITION", "FOR", "DETAIL"),
        [
            (source.name, source.mode, source.condition, format_duration(source.since), source.detail)
            for source in value.sources
        ],
    )


def _cycle_text(value: BrokerStatus) -> str:
    if not value.cycle:
        return "none is running"
    phase = (value.phase or "in an unknown phase").replace("_", " ")
    length = f" for {format_duration(value.phase_for)}" if value.phase_for is not None else ""
    return f"{value.cycle}, {phase}{length}"


def _last_text(value: CycleSummary | None) -> str:
    if value is None:
        return "none since the broker started"
    when = value.time.astimezone().isoformat(sep=" ", timespec="seconds")
    return (
        f"{value.cycle}, {value.verdict.level}, {when}, took {format_duration(value.took)}, "
        f"asked for by {value.requester} ({value.source})"
    )
