"""`appvss watch`: what happens, as it happens."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from appvss.cli import documents, render
from appvss.cli.invocation import Invocation, json_option, runtime_directory_option
from appvss.model.duration import format_duration

if TYPE_CHECKING:
    from appvss.sdk.admin_values import BrokerEvent


@click.command("watch", short_help="Show what happens, as it happens, until Ctrl-C.")
@runtime_directory_option
@json_option
@click.pass_obj
def watch(invocation: Invocation) -> None:
    """Show what happens from now on, one line an event, until Ctrl-C.

    The columns are the local time, the time since the cycle's request, the cycle, what happened, the app, how long it
    took, and what there is to say. Ends with code 0 at Ctrl-C, and with code 4 when the broker stops.
    """
    with invocation.client() as client, contextlib.suppress(KeyboardInterrupt):
        for event in client.watch():
            if invocation.as_json:
                render.document("event", documents.event(event))
            else:
                render.line(_text(event))


def _text(event: BrokerEvent) -> str:
    when = event.time.astimezone().isoformat(sep=" ", timespec="milliseconds")
    since = "" if event.since_request is None else "+" + format_duration(event.since_request)
    took = "" if event.took is None else f"took {format_duration(event.took)}"
    phase = f"-> {event.phase}" if event.kind == "phase_changed" and event.phase else ""
    rest = "  ".join(part for part in (event.app, phase, took, event.detail) if part)
    return f"{when}  {since:>9}  {event.cycle or '-'}  {event.kind:<19}  {rest}".rstrip()
