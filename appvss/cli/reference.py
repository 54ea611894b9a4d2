"""The reference page of all commands, drawn from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Final

import click

from appvss.cli.main import appvss

_HEAD: Final = """\
# Commands

Every command takes `--help`. Exit codes are in [errors.md](../errors.md), what `--json` writes in [json.md](json.md).
Options of `appvss` itself stand before the command's name; `--runtime-directory` may stand in both places.

This page is drawn from the commands themselves.
"""


def reference() -> str:
    """The page, as Markdown."""
    return _HEAD + "".join(_section(path, command, context) for path, command, context in commands())


def commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command with its whole name and its context, groups before what is in them."""
    yield from _below("appvss", appvss, None)


def _below(
    name: str, command: click.Command, parent: click.Context | None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    context = click.Context(command, parent=parent, info_name=name)
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found is not None and not found.hidden:
                yield from _below(inner, found, context)


def _section(path: str, command: click.Command, context: click.Context) -> str:
    usage = " ".join((context.command_path, *command.collect_usage_pieces(context)))
    parts = [f"\n## `{path}`\n\n    {usage}\n\n{inspect.cleandoc(command.help or '')}\n"]
    rows = [_row(option) for option in command.params if isinstance(option, click.Option) and not option.hidden]
    if rows:
        parts.append("\n| option | meaning |\n| --- | --- |\n" + "".join(rows))
    return "".join(parts)


def _row(option: click.Option) -> str:
    value = "" if option.is_flag or option.count else f" {option.metavar or option.type.name.upper()}"
    return f"| `{', '.join(option.opts)}{value}` | {option.help or ''} |\n"
