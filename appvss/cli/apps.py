"""`appvss apps`: who takes part, who holds, who is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from appvss.cli import documents, render
from appvss.cli.invocation import Invocation, json_option, runtime_directory_option
from appvss.model.duration import format_duration

if TYPE_CHECKING:
    from appvss.sdk.admin_values import AppStatus


@click.command("apps", short_help="List the apps: who takes part, who holds, who is missing.")
@runtime_directory_option
@json_option
@click.pass_obj
def apps(invocation: Invocation) -> None:
    """List the apps in the order of the freeze: who takes part, who holds, who is missing.

    ORDER and NEEDS are what counts in the next freeze; LAST is the outcome in the last cycle.
    """
    with invocation.client() as client:
        values = client.apps()
    if invocation.as_json:
        render.document("apps", {"apps": [documents.app(value) for value in values]})
    elif values:
        _show(values)
    else:
        render.line("no app is registered, and none is expected")


def _show(values: tuple[AppStatus, ...]) -> None:
    render.table(
        ("APP", "STATE", "FOR", "REQUIREMENT", "ORDER", "NEEDS", "HOLDS", "WHO", "LAST"),
        [
            (
                str(value.app),
                value.state,
                format_duration(value.since),
                value.requirement.value,
                str(value.order),
                "-" if value.freeze_timeout is None else format_duration(value.freeze_timeout),
                format_duration(value.hold_limit) if value.hold_limit else "-",
                _who(value),
                value.last_outcome.outcome.value if value.last_outcome else "-",
            )
            for value in values
        ],
    )
    for value in values:
        if value.last_error:
            render.line(f"{value.app}: {value.last_error}")


def _who(value: AppStatus) -> str:
    if value.peer is None:
        return "-" if value.state == "absent" else "unidentified"
    return f"uid {value.peer.uid}, pid {value.peer.pid}"
