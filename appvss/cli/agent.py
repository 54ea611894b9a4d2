"""`appvss agent`: adapters as apps, from a configuration file, in the foreground; and what belongs to that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from appvss.cli import render
from appvss.cli.invocation import Invocation, LazyCommand, LazyGroup, runtime_directory_option
from appvss.model.errors import ExitCode

COMMANDS: Final = {
    "check": LazyCommand(
        "appvss.cli.agent_check", "check", "Say of every configured application what would go wrong in a freeze."
    ),
    "sample": LazyCommand(
        "appvss.cli.agent", "sample", "Print a configuration with every key of an adapter, its meaning and its default."
    ),
    "undo": LazyCommand("appvss.cli.agent", "undo", "End the holds that a dead agent has left behind."),
}


@click.group("agent", cls=LazyGroup, lazy=COMMANDS, invoke_without_command=True, short_help="Run adapters as apps.")
@click.option("--config", "file", metavar="FILE", type=click.Path(path_type=Path), help="The configuration file.")
@runtime_directory_option
@click.pass_context
def agent(context: click.Context, file: Path | None) -> int:
    """Run every configured adapter as an app, each in a process of its own, in the foreground.

    SIGHUP reads the configuration again: apps that have not changed are not touched, others are stopped when their hold
    has ended. SIGTERM and SIGINT end it: what is held is let go of first.

    Without --config it reads /etc/appvss/agent.toml (/usr/local/etc/appvss/agent.toml on FreeBSD).
    """
    if context.invoked_subcommand is not None:
        if file is not None:  # named before the command's name
            context.default_map = {name: {"file": str(file)} for name in ("check", "undo")}
        return ExitCode.SUCCESS
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from appvss.agent.configuration import AgentConfiguration, load  # the agent is imported here alone
    from appvss.agent.supervisor import run

    def read() -> AgentConfiguration:
        return load(file, runtime_directory=_runtime_directory(context.obj))

    return run(read)


def _runtime_directory(invocation: Invocation) -> Path | None:
    return Path(invocation.runtime_directory) if invocation.runtime_directory else None


@click.command("sample", short_help=COMMANDS["sample"].summary)
@click.argument("adapter")
def sample(adapter: str) -> None:
    """Print a configuration for ADAPTER, such as postgresql, with every key, its meaning and its default."""
    from appvss.agent.configuration_text import sample as sample_text

    render.line(sample_text(adapter).rstrip("\n"))


@click.command("undo", short_help=COMMANDS["undo"].summary)
@click.option("--config", "file", metavar="FILE", type=click.Path(path_type=Path), help="The configuration file.")
def undo(file: Path | None) -> int:
    """End the holds that a dead agent has left behind, of applications that do not let go by themselves.

    What a living agent holds is left alone. Code 9: something could not be undone.
    """
    import asyncio

    from appvss.agent.configuration import load_sound_apps
    from appvss.agent.leftovers import end_leftovers

    leftovers = asyncio.run(end_leftovers(load_sound_apps(file)))
    for each in leftovers:
        render.line(f"{each.key}: {each.outcome}")
    return ExitCode.REFUSED if any(each.is_failure for each in leftovers) else ExitCode.SUCCESS
