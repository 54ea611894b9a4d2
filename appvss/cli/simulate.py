"""`appvss simulate`: devices and requesters for development and tests.

What a program may rely on in the JSON lines is in docs/simulator.md.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from appvss.cli import render
from appvss.cli.invocation import Invocation, json_option, length_of_time
from appvss.model.errors import AppvssError, DeviceAbsent, DeviceBusy, ExitCode, SimulatorUnavailable, UsageError

if TYPE_CHECKING:
    from appvss.simulator.lines import Line

_ERRORS: Final[dict[str, type[AppvssError]]] = {
    error.__name__: error for error in (DeviceAbsent, DeviceBusy, SimulatorUnavailable)
}
"""What a command that was sent to a simulator can end with, besides a `UsageError`."""
_EXIT_CODES: Final = {"failed": ExitCode.REFUSED, "unanswered": ExitCode.UNAVAILABLE}


@click.group("simulate", short_help="Play devices and requesters, for development and tests.")
def simulate() -> None:
    """Play devices and requesters, for development and tests."""


@simulate.command("freebsd", short_help="Serve FreeBSD's Hyper-V devices in a folder.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--fs",
    "fs_side",
    type=click.Choice(["auto", "silent", "none"]),
    default="auto",
    show_default=True,
    help="The file-system side: it agrees, it never answers, or another program plays it.",
)
@click.option("--debug-kernel", is_flag=True, help="Let a kernel with INVARIANTS panic where the real one would.")
@json_option
@click.pass_obj
def freebsd(invocation: Invocation, directory: Path, fs_side: str, debug_kernel: bool) -> None:
    """Serve FreeBSD's Hyper-V devices as DIR/hv_appvss_dev and DIR/hv_fsvss_dev, in the foreground.

    DIR is an empty folder or does not exist yet. Commands are read from standard input, one a line; `help` lists them,
    and `appvss simulate host DIR COMMAND` gives them from another shell. What happens is written to standard output,
    one line each. `quit`, Ctrl-C, SIGTERM and SIGHUP unmount DIR and end with code 0; the end of standard input ends
    nothing.

    It needs Linux with FUSE, and root or fusermount3: without them the code is 12.
    """
    from appvss.simulator.freebsd import session  # only this command needs the simulator

    asyncio.run(
        session.run(
            directory,
            automatic_fs=fs_side != "none",
            silent_fs=fs_side == "silent",
            debug_kernel=debug_kernel,
            as_json=invocation.as_json,
        )
    )


@simulate.command("linux", short_help="Serve Linux's Hyper-V device in a folder.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--kernel",
    metavar="VERSION",
    default="6.1",
    show_default=True,
    help="Whose driver it is, from 4.2 on, or 3.10 with --netlink: old ones register, ask and time out otherwise.",
)
@click.option("--netlink", is_flag=True, help="Serve the driver's netlink side instead of the device.")
@json_option
@click.pass_obj
def linux(invocation: Invocation, directory: Path, kernel: str, netlink: bool) -> None:
    """Serve Linux's Hyper-V device as DIR/hv_vss, in the foreground.

    DIR is an empty folder or does not exist yet. Commands are read from standard input, one a line; `help` lists them,
    and `appvss simulate host DIR COMMAND` gives them from another shell. What happens is written to standard output,
    one line each. `quit`, Ctrl-C, SIGTERM and SIGHUP unmount DIR and end with code 0; the end of standard input ends
    nothing.

    It needs Linux with FUSE, and root or fusermount3: without them the code is 12.

    With --netlink there is no device: the driver is played on the netlink connector of this network namespace, which
    must not be the machine's own, and DIR/connector is its list of drivers. Start it, and the broker, with `unshare
    --net`.
    """
    # only this command needs the simulators
    if netlink:
        from appvss.simulator.linux_netlink import session as netlink_session

        asyncio.run(netlink_session.run(directory, kernel=kernel, as_json=invocation.as_json))
    else:
        from appvss.simulator.linux import session

        asyncio.run(session.run(directory, kernel=kernel, as_json=invocation.as_json))


@simulate.command(
    "host", short_help="Give a running simulator one command.", context_settings={"ignore_unknown_options": True}
)
@click.option(
    "--timeout",
    metavar="LENGTH",
    default="5m",
    show_default=True,
    callback=length_of_time,
    help="How long to wait for the command to end.",
)
@json_option
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("command", nargs=-1, required=True)
@click.pass_obj
def host(invocation: Invocation, timeout: timedelta, directory: Path, command: tuple[str, ...]) -> int:
    """Give the simulator that serves DIR one COMMAND, such as `freeze`, and wait for how it ends.

    Code 0: it is done, or the guest agreed. Code 9: the guest refused, or its driver gave up. Code 12: no reply came,
    or no simulator serves DIR.
    """
    from appvss.simulator import control, lines

    line = asyncio.run(control.ask(directory, " ".join(command), timeout))
    if line["message_type"] == "error":
        raise _ERRORS.get(line["name"], UsageError)(line["sentence"], line["hint"])
    render.line(lines.as_json(line) if invocation.as_json else lines.as_text(line))
    return _exit_code(line)


def _exit_code(line: Line) -> int:
    return _EXIT_CODES.get(line.get("outcome", ""), ExitCode.SUCCESS)
