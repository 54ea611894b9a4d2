"""`appvss thaw`: end the running cycle now; or thaw what a dead broker has left frozen."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appvss.cli import render
from appvss.cli.invocation import Invocation, json_option, runtime_directory_option
from appvss.model.errors import AppvssError, ExitCode

if TYPE_CHECKING:
    from appvss.freezer.record import Released


@click.command("thaw", short_help="End the running cycle now, so that everything goes on.")
@click.option("--reason", metavar="SENTENCE", help="Why, for the record of the cycle.")
@click.option(
    "--filesystems",
    is_flag=True,
    help="Thaw what a broker that has died may have left frozen. Needs no broker; one that runs is asked first.",
)
@runtime_directory_option
@json_option
@click.pass_obj
def thaw(invocation: Invocation, reason: str | None, filesystems: bool) -> int:
    """End the running cycle now, so that everything goes on. Its requester hears that it failed.

    Harmless when no cycle is running: code 0 as well. Ends with code 9 when some app has not confirmed the thaw in 30
    seconds; it goes on by itself at its hold limit.

    With --filesystems: for a machine on which broker and guardian have both been killed in a hold. It thaws what they
    have recorded in the runtime directory as perhaps frozen, and says what became of each; nothing else is touched.
    Code 0: nothing of it is frozen. Code 12: something may still be.
    """
    sys.dont_write_bytecode = True  # its folder may be frozen
    said = reason or f"appvss thaw by user {os.getuid()}"
    if filesystems:
        return _thaw_filesystems(invocation, said)
    with invocation.client() as client:
        cycle = client.force_thaw(said)
    if invocation.as_json:
        render.document("thaw", {"thawed_cycle": cycle or None})
    elif cycle:
        render.line(f"cycle {cycle} is ended and everything goes on")
    else:
        render.line("no cycle was running; nothing is held")
    return ExitCode.SUCCESS


def _thaw_filesystems(invocation: Invocation, reason: str) -> int:
    from appvss.freezer.record import thaw_recorded

    client = invocation.client()
    with client:
        if os.path.exists(client.path):
            try:
                client.force_thaw(reason)
            except AppvssError as error:  # it is dead, hangs, or waits for apps: the file systems must not
                render.note(f"appvss: {error.sentence}")
    released = thaw_recorded(Path(client.path).parent)
    if invocation.as_json:
        render.document("thaw_filesystems", {"thawed": [_fields(one) for one in released]})
    else:
        _show(released)
    return ExitCode.UNAVAILABLE if any(one.failure for one in released) else ExitCode.SUCCESS


def _fields(one: Released) -> dict[str, object]:
    return {"path": one.path, "was_frozen": one.was_frozen, "failure": one.failure or None}


def _show(released: tuple[Released, ...]) -> None:
    for one in released:
        if one.failure:
            render.line(f"{one.path} may still be frozen: {one.failure}")
        else:
            render.line(f"{one.path} {'was frozen and goes on' if one.was_frozen else 'was not frozen'}")
    if not released:
        render.line("no broker has left anything frozen")
