"""`appvss hook freeze` and `appvss hook thaw`: for whoever runs one program before a snapshot and another one after it.

The guest agent of QEMU is one (docs/qemu-guest-agent.md). Its contract is an exit code and nothing else
(facts/real-vm.md section 1.4): other than zero from `freeze` means that nothing is held, and that no `thaw` will come;
`thaw` comes more often than `freeze`, also when nothing was frozen.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from appvss.cli import documents, render
from appvss.cli.filesystem_options import mount_option
from appvss.cli.invocation import (
    Invocation,
    LazyCommand,
    LazyGroup,
    json_option,
    length_of_time,
    runtime_directory_option,
)
from appvss.cli.nesting import refuse_nesting
from appvss.model.duration import format_duration
from appvss.model.errors import AppvssError, BrokerUnreachable, ExitCode
from appvss.model.filesystem import FilesystemChoice, Scope
from appvss.model.names import printable
from appvss.model.verdict import Level, Verdict

if TYPE_CHECKING:
    from appvss.sdk.admin import AdminClient
    from appvss.sdk.admin_cycles import Held, HookEnd

COMMANDS: Final = {
    "freeze": LazyCommand("appvss.cli.hook", "freeze", "Freeze the apps, and leave them held."),
    "thaw": LazyCommand("appvss.cli.hook", "thaw", "Thaw what the freeze of a hook has left held."),
}
MARK: Final = "hook.frozen"
"""A file in the runtime directory from a hook's freeze to its thaw, so that a thaw without a freeze and one that has
lost its broker are not the same."""
_RECENT: Final = 50
"""How many cycles are looked through for the last one of a hook."""
_HOOK: Final = "hook"
"""The source of hooks."""
_SCOPES: Final = ("none", "declared", "all")


@click.group(
    "hook",
    cls=LazyGroup,
    lazy=COMMANDS,
    invoke_without_command=True,
    short_help="Freeze and thaw by two calls, as guest agents and backup tools make them.",
)
@click.pass_context
def hook(context: click.Context) -> None:
    """Freeze and thaw by two calls, as guest agents and backup tools make them.

    They run one program before a snapshot and another one after it. The broker holds between the two, for as long as
    `sources.hook.hold_limit` at most.
    """
    if context.invoked_subcommand is None:
        raise click.UsageError("no command was named", context)


@click.command("freeze", short_help=COMMANDS["freeze"].summary)
@click.option(
    "--filesystems",
    "scope",
    type=click.Choice(_SCOPES),
    default="none",
    show_default=True,
    help="Which file systems to freeze after the apps. Guest agents freeze them by themselves, after this.",
)
@mount_option("Freeze this mounted file system as well. Several times: these.")
@click.option(
    "--hold-limit", metavar="LENGTH", callback=length_of_time, help="The longest hold, such as 30s. Else as configured."
)
@click.option(
    "--freeze-budget",
    metavar="LENGTH",
    callback=length_of_time,
    help="The time for prepare and freeze together, such as 20s. Else as configured.",
)
@runtime_directory_option
@json_option
@click.pass_obj
def freeze(
    invocation: Invocation,
    scope: str,
    mounts: tuple[str, ...],
    hold_limit: timedelta | None,
    freeze_budget: timedelta | None,
) -> int:
    """Freeze the apps, and leave them held until `appvss hook thaw`, or until the hold limit.

    Code 0: everything is held. Any other: nothing is, and nothing needs to be thawed; 9 when an app or the broker said
    no, 4 when there is no broker. A hook that freezes twice has forgotten the first: that hold ends.
    """
    refuse_nesting()
    if mounts and scope != "none":
        raise click.UsageError("--filesystems and --mount exclude each other")
    choice = FilesystemChoice(Scope.NAMED, mounts) if mounts else FilesystemChoice(Scope(scope))
    sys.dont_write_bytecode = True  # its folder may be frozen
    with invocation.client() as client:
        mark = _mark(client)
        _set(mark)
        try:
            answer = client.hook_freeze(
                _requester(), freeze_budget=freeze_budget, hold_limit=hold_limit, filesystems=choice
            )
        except AppvssError as error:
            _clear(mark)
            if invocation.as_json:
                raise
            return _failed(error, client.path)
        except BaseException:
            _clear(mark)
            raise
    if isinstance(answer, Verdict):
        _clear(mark)
        return _refused(invocation, answer)
    return _held(invocation, answer)


@click.command("thaw", short_help=COMMANDS["thaw"].summary)
@runtime_directory_option
@json_option
@click.pass_obj
def thaw(invocation: Invocation) -> int:
    """Thaw what `appvss hook freeze` has left held, and say what the hold was worth.

    Code 0: everything stood still until now; or nothing was held, which is harmless, also where there is no broker.
    Code 10: the hold had ended before, or something did not stand still: the snapshot is worth less than was promised.
    Code 4: there is a broker, and it does not answer.
    """
    sys.dont_write_bytecode = True
    with invocation.client() as client:
        mark = _mark(client)
        end, note = _thawed(client, is_marked=os.path.exists(mark))
    _clear(mark)
    is_kept = end.is_kept if end is not None else not note.startswith(_LOST)
    code = ExitCode.SUCCESS if is_kept else ExitCode.NOT_CONSISTENT
    verdict = end.verdict if end is not None else None
    if invocation.as_json:
        _write("thaw", code, verdict=verdict)
    else:
        render.note(f"appvss: {note or _in_words(verdict)}")
    return code


_LOST: Final = "the hold was lost"


def _thawed(client: AdminClient, *, is_marked: bool) -> tuple[HookEnd | None, str]:
    """What the hold was worth, or a sentence about there being none."""
    from appvss.sdk.admin_failures import is_nobody_there

    try:
        end = client.hook_thaw()
        if end is None and is_marked:
            end = _recorded(client)
            return end, "" if end is not None else f"{_LOST}: the broker knows nothing of it"
    except BrokerUnreachable:
        if not is_nobody_there(client.path):
            raise
        return None, f"{_LOST}: its broker is gone" if is_marked else "nothing is held: no broker is running"
    return end, "" if end is not None else "nothing was held"


def _recorded(client: AdminClient) -> HookEnd | None:
    """How the last hold of a hook ended, by the history: the broker that had it has been restarted since."""
    from appvss.sdk.admin_cycles import HookEnd

    last = next((cycle for cycle in client.cycles(_RECENT) if cycle.source == _HOOK), None)
    return None if last is None else HookEnd(last.verdict, is_kept=last.verdict.level is Level.APPLICATION)


def _requester() -> str:
    """Who runs the hook, for people: `appvss hook of qemu-ga (process 123)`."""
    parent, name = os.getppid(), ""
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{parent}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return f"appvss hook of {printable(name, 32) or f'user {os.getuid()}'} (process {parent})"


def _mark(client: AdminClient) -> Path:
    return Path(client.path).with_name(MARK)


def _set(mark: Path) -> None:
    """Where it cannot be (no runtime directory: no broker), the call itself says what is wrong."""
    with contextlib.suppress(OSError):
        mark.touch(mode=0o600)


def _clear(mark: Path) -> None:
    with contextlib.suppress(OSError):
        mark.unlink()


def _held(invocation: Invocation, held: Held) -> int:
    if invocation.as_json:
        _write("freeze", ExitCode.SUCCESS, held=held)
    else:
        render.note(f"appvss: held for {format_duration(held.hold_limit)} at most, cycle {held.cycle}")
    return ExitCode.SUCCESS


def _failed(error: AppvssError, path: str) -> int:
    """Say in one line, which is all that agents keep, why it failed; and that nothing is held, unless nobody knows."""
    from appvss.sdk.admin_failures import is_nobody_there

    is_known = not isinstance(error, BrokerUnreachable) or is_nobody_there(path)
    render.note(f"appvss: {'nothing is held: ' if is_known else ''}{error.sentence}")
    return error.exit_code


def _refused(invocation: Invocation, verdict: Verdict) -> int:
    if invocation.as_json:
        _write("freeze", ExitCode.REFUSED, verdict=verdict)
    else:
        render.note(f"appvss: nothing is held: {_in_words(verdict)}")
    return ExitCode.REFUSED


def _in_words(verdict: Verdict | None) -> str:
    if verdict is None:
        return "nothing was held"
    held = "" if verdict.hold is None else f", held for {format_duration(verdict.hold)}"
    why = f": {verdict.reasons[0]}" if verdict.reasons else ""
    return f"cycle {verdict.cycle}: {verdict.level}{held}{why}"


def _write(word: str, code: ExitCode, held: Held | None = None, verdict: Verdict | None = None) -> None:
    cycle = held.cycle if held else verdict.cycle if verdict else None
    document: Mapping[str, object] = {
        "word": word,
        "cycle": cycle,
        "is_held": held is not None,
        "hold_limit_seconds": documents.seconds(held.hold_limit) if held else None,
        "verdict": None if verdict is None else documents.verdict(verdict),
        "exit_code": int(code),
    }
    render.document("hook", document)
