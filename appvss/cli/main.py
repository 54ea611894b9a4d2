"""The `appvss` command, and the one place that turns an error into lines for people and an exit code.

What scripts may rely on is written down: exit codes in docs/errors.md, JSON in docs/reference/json.md, commands in
docs/reference/commands.md.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final, NoReturn

import click

from appvss.cli import render
from appvss.cli.invocation import Invocation, LazyCommand, LazyGroup, runtime_directory_option
from appvss.model.errors import AppvssError, ExitCode

COMMANDS: Final = {
    "broker": LazyCommand("appvss.cli.broker", "broker", "Run the broker in the foreground."),
    "status": LazyCommand("appvss.cli.status", "status", "Show the broker at one glance."),
    "apps": LazyCommand("appvss.cli.apps", "apps", "List the apps: who takes part, who holds, who is missing."),
    "history": LazyCommand("appvss.cli.history", "history", "List the cycles of the past, with what each was worth."),
    "show": LazyCommand(
        "appvss.cli.show", "show", "Show one cycle in full: apps, times, evidence, and what happened when."
    ),
    "why": LazyCommand(
        "appvss.cli.why", "why", "Say why the last snapshot was not application-consistent, and what to do."
    ),
    "watch": LazyCommand("appvss.cli.watch", "watch", "Show what happens, as it happens, until Ctrl-C."),
    "freeze": LazyCommand("appvss.cli.freeze", "freeze", "Freeze apps and file systems, run a command, thaw them."),
    "hook": LazyCommand(
        "appvss.cli.hook", "hook", "Freeze and thaw by two calls, as guest agents and backup tools make them."
    ),
    "filesystems": LazyCommand(
        "appvss.cli.filesystems",
        "filesystems",
        "Show which file systems a freeze would take, in which order, and what not.",
    ),
    "rehearse": LazyCommand(
        "appvss.cli.rehearse", "rehearse", "Freeze and thaw the apps without a snapshot; see how long it takes."
    ),
    "thaw": LazyCommand("appvss.cli.thaw", "thaw", "End the running cycle now, so that everything goes on."),
    "doctor": LazyCommand("appvss.cli.doctor", "doctor", "Find what would fail a freeze, before there is one."),
    "certificate": LazyCommand(
        "appvss.cli.certificate", "certificate", "Show or verify the certificate that a disk image carries."
    ),
    "verify": LazyCommand(
        "appvss.cli.verify", "verify", "Start a private copy of a database from a snapshot, and say what it is worth."
    ),
    "agent": LazyCommand("appvss.cli.agent", "agent", "Run adapters as apps."),
    "config": LazyCommand("appvss.cli.config", "config", "Check a configuration file, or print one to begin with."),
    "check-app": LazyCommand(
        "appvss.cli.check_app", "check_app", "Play a broker with all its moods against your own app, and report."
    ),
    "simulate": LazyCommand(
        "appvss.cli.simulate", "simulate", "Play devices and requesters, for development and tests."
    ),
}
"""Every command, in the order of `appvss --help`."""
SIGNAL_BASE: Final = 128
"""A command that a signal ended exits with this plus the signal's number, as shells do."""
_SIGINT_EXIT: Final = SIGNAL_BASE + 2
_SIGPIPE_EXIT: Final = SIGNAL_BASE + 13


def _print_version(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        from appvss.model.version import VERSION

        render.line(f"appvss {VERSION}")
        context.exit()


@click.group("appvss", cls=LazyGroup, lazy=COMMANDS, invoke_without_command=True)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version and end.",
)
@click.option("--debug", is_flag=True, help="Print a traceback when the command itself fails.")
@runtime_directory_option
@click.pass_context
def appvss(context: click.Context, debug: bool) -> None:
    """Application-consistent snapshots: the broker, and what an administrator asks of it."""
    context.ensure_object(Invocation).debug = debug
    if context.invoked_subcommand is None:
        raise click.UsageError("no command was named", context)


def run(arguments: Sequence[str]) -> int:
    """Carry one command line out; the exit code. Nothing is raised: every error ends as text and a number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a locale cannot write must not end a command in a traceback.
            stream.reconfigure(errors="backslashreplace")
    invocation = Invocation()
    try:
        return _invoke(arguments, invocation)
    except click.ClickException as error:
        _complain_about_usage(error)
        return error.exit_code
    except AppvssError as error:
        render.failure(error, as_json=invocation.as_json)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _SIGINT_EXIT
    except BrokenPipeError:
        _forget_output()
        return _SIGPIPE_EXIT
    except Exception as error:  # noqa: BLE001 the last resort: a person gets a sentence, and the traceback with --debug
        render.bug(error, traceback.format_exc() if invocation.debug else None)
        return ExitCode.INTERNAL


def _invoke(arguments: Sequence[str], invocation: Invocation) -> int:
    try:
        with appvss.make_context("appvss", list(arguments), obj=invocation) as context:
            code = appvss.invoke(context)
    except click.exceptions.Exit as leave:
        code = leave.exit_code
    return int(code or ExitCode.SUCCESS)


def _complain_about_usage(error: click.ClickException) -> None:
    sentence = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "appvss"
    render.complaint(sentence[:1].lower() + sentence[1:], f"`{path} --help` says what it takes.")


def _forget_output() -> None:
    """Nobody reads any more: what is still buffered must not fail once more when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> NoReturn:
    """The entry point of the `appvss` command.

    It ends without the interpreter's own tidying up, which would wait without a limit where one of gRPC's threads,
    ended before it, held a lock (`appvss.sdk.admin_failures.let_go`). Everything of ours is closed by then.
    """
    code = run(sys.argv[1:])
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, full, or never there
            stream.flush()
    os._exit(code)
