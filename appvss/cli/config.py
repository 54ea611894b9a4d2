"""`appvss config`: check a configuration file, print one to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from appvss.cli import render
from appvss.cli.invocation import LazyCommand, LazyGroup

COMMANDS = {
    "check": LazyCommand("appvss.cli.config", "check", "Report every problem of a configuration file."),
    "sample": LazyCommand(
        "appvss.cli.config", "sample", "Print a file with every key, its meaning and its built-in value."
    ),
}


@click.group("config", cls=LazyGroup, lazy=COMMANDS, invoke_without_command=True)
@click.pass_context
def config(context: click.Context) -> None:
    """Check a configuration file, or print one to begin with."""
    if context.invoked_subcommand is None:
        raise click.UsageError("no command was named", context)


@click.command("check", short_help=COMMANDS["check"].summary)
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None) -> None:
    """Report every problem of FILE at once; without FILE, of the file that the broker would read by itself.

    Ends with code 3 when there are problems. What is allowed and can hardly be meant, such as a limit that cannot fit,
    is a note and no problem. Users and groups of this machine count, so check where the broker runs.
    """
    from appvss.broker.configuration import load  # heavy: it knows the sockets
    from appvss.broker.policy import notes

    configuration = load(file)
    origin = configuration.origin
    render.line(
        f"{origin} has no problem" if origin else "there is no configuration file; the built-in values are used"
    )
    for note in notes(configuration):
        render.line(f"note: {note}")


@click.command("sample", short_help=COMMANDS["sample"].summary)
def sample() -> None:
    """Print a configuration file with every key, its meaning and its built-in value, all commented out."""
    from appvss.broker.configuration_text import sample as sample_text  # heavy: it knows the sockets

    render.line(sample_text().rstrip("\n"))
