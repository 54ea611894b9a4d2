"""`appvss thaw`: end the running cycle now."""

from __future__ import annotations

import os

import click

from appvss.cli import render
from appvss.cli.invocation import Invocation, json_option, runtime_directory_option


@click.command("thaw", short_help="End the running cycle now, so that everything goes on.")
@click.option("--reason", metavar="SENTENCE", help="Why, for the record of the cycle.")
@runtime_directory_option
@json_option
@click.pass_obj
def thaw(invocation: Invocation, reason: str | None) -> None:
    """End the running cycle now, so that everything goes on. Its requester hears that it failed.

    Harmless when no cycle is running: code 0 as well. Ends with code 9 when some app has not confirmed the thaw in 30
    seconds; it goes on by itself at its hold limit.
    """
    with invocation.client() as client:
        cycle = client.force_thaw(reason or f"appvss thaw by user {os.getuid()}")
    if invocation.as_json:
        render.document("thaw", {"thawed_cycle": cycle or None})
    elif cycle:
        render.line(f"cycle {cycle} is ended and everything goes on")
    else:
        render.line("no cycle was running; nothing is held")
