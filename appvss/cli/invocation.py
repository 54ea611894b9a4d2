"""What the commands share: the options that several of them take, and what the command line as a whole says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from appvss.model.duration import parse_duration
from appvss.model.errors import DurationInvalid

if TYPE_CHECKING:
    from appvss.sdk.admin import AdminClient

LONGEST: Final = timedelta(hours=24)
"""The longest length of time that a command takes: no broker can be configured to give more."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(slots=True)
class Invocation:
    """What one command line says, as far as it is known while the command runs."""

    runtime_directory: str | None = None
    """The broker's; None: the environment's, else the platform's."""
    debug: bool = False
    as_json: bool = False

    def client(self) -> AdminClient:
        """A client of the broker's admin socket.

        Raises:
            SocketPathTooLong: no socket fits into the runtime directory.
        """
        from appvss.sdk.admin import AdminClient  # gRPC is heavy: only the commands that need it pay for it

        return AdminClient(self.runtime_directory)


def _set_runtime_directory(context: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(Invocation).runtime_directory = value


def _set_json(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Invocation).as_json = True


def runtime_directory_option(command: _Function) -> _Function:
    """`--runtime-directory`, which may stand before and after the command's name; the later one counts."""
    return click.option(
        "--runtime-directory",
        metavar="DIRECTORY",
        expose_value=False,
        callback=_set_runtime_directory,
        help="Where the broker's sockets are. Else APPVSS_RUNTIME_DIRECTORY, else the platform's place.",
    )(command)


def json_option(command: _Function) -> _Function:
    """`--json`."""
    return click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_set_json,
        help="Write JSON, as docs/reference/json.md describes it.",
    )(command)


def length_of_time(_context: click.Context, _option: click.Parameter, value: str | None) -> timedelta | None:
    """The callback of an option that takes a length of time with its unit, above zero.

    Raises:
        click.BadParameter: it is something else.
    """
    if value is None:
        return None
    try:
        length = parse_duration(value)
    except DurationInvalid as error:
        raise click.BadParameter(f"{error.sentence}; write 500ms, 15s, 2m or 1h") from error
    if not timedelta(0) < length <= LONGEST:
        raise click.BadParameter(f"{value!r} is not above zero and at most 24h")
    return length


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command whose module is imported only when it is used."""

    module: str
    attribute: str
    summary: str
    """Its line in the list of commands; the same as the command's own short help."""


class LazyGroup(click.Group):
    """A group that lists its commands without importing them, so that `--help` is fast.

    Args:
        lazy: the commands by name, in the order of the list.
    """

    def __init__(self, *arguments: Any, lazy: Mapping[str, LazyCommand], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the list."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        lazy = self.lazy.get(cmd_name)
        if lazy is None:
            return None
        command: click.Command = getattr(import_module(lazy.module), lazy.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the summaries alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in self.lazy.items()])
