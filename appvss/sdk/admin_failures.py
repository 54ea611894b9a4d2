"""Why a call on the admin socket failed, in our words.

gRPC says UNAVAILABLE for a socket that is not there, for one that nobody listens at and for one that this user may not
open. Here the socket is looked at once more, so that each gets its own sentence.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Final

import grpc

from appvss import contract
from appvss.model.errors import AppvssError, BrokerRefused, BrokerUnreachable, CycleBusy, CycleUnknown, RequestRefused
from appvss.model.names import printable

_LOOK_LIMIT: Final = timedelta(seconds=1)
_START_HINT: Final = (
    "Start the broker with `appvss broker`, or name the running one's directory with --runtime-directory "
    f"or {contract.RUNTIME_DIRECTORY_VARIABLE}."
)
_FORBIDDEN_HINT: Final = "The admin socket is the broker's user's alone: run this as that user, usually root."
_VERSIONS_HINT: Final = "Compare `appvss --version` with the broker's version in `appvss status`, and update the older."


def silent(path: str, limit: timedelta) -> BrokerUnreachable:
    """The error for a broker that takes calls and does not answer."""
    return BrokerUnreachable(
        f"the broker at {printable(path)} has not answered within {limit.total_seconds():g}s",
        "It is stopped, or the machine is busy: look at the broker's process and its log.",
    )


def unreachable(path: str, detail: str) -> BrokerUnreachable:
    """The error for a call that came to nothing, after a look at the socket.

    Args:
        path: the admin socket.
        detail: what gRPC says, for the case that the socket looks well.
    """
    where = printable(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_LOOK_LIMIT.total_seconds())
        try:
            probe.connect(path)
        except FileNotFoundError:
            return BrokerUnreachable(f"no broker is running: there is no socket {where}", _START_HINT)
        except NotADirectoryError:
            return BrokerUnreachable(f"no broker is running: {where} leads through something else", _START_HINT)
        except PermissionError:
            return BrokerUnreachable(f"user {os.geteuid()} may not use the socket {where}", _FORBIDDEN_HINT)
        except ConnectionRefusedError:
            return BrokerUnreachable(f"no broker is running: nobody listens at the socket {where}", _START_HINT)
        except OSError as error:
            return BrokerUnreachable(f"the socket {where} cannot be used: {error.strerror or error}", _START_HINT)
    why = f": {printable(detail)}" if detail else ""
    return BrokerUnreachable(f"the broker at {where} ended the call{why}", "It is stopping or starting: try again.")


def is_nobody_there(path: str) -> bool:
    """Whether no broker runs behind the socket, so that none can hold anything. A broker that is silent, or whose
    socket this user may not use, is there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_LOOK_LIMIT.total_seconds())
        try:
            probe.connect(path)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return True
        except OSError:
            return False
    return False


def refused(code: grpc.StatusCode | None, detail: str) -> AppvssError:
    """The error for an answer that is a no."""
    said = printable(detail) or (code.name.lower() if code else "no reason")
    if code is grpc.StatusCode.ABORTED:
        return CycleBusy(f"another cycle is running: {said}", "Try again when it is over; `appvss watch` shows it.")
    if code is grpc.StatusCode.NOT_FOUND:
        return CycleUnknown(said, "`appvss history` lists the cycles that are known.")
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return RequestRefused(
            f"the broker refused: {said}",
            "Local requests are switched on with `sources.local.mode` in its configuration.",
        )
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE):
        return BrokerRefused(f"the broker refused: {said}", "Mend what it names, and try again.")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return BrokerRefused(
            f"the broker refused: {said}", "End what uses its room up, such as other watchers; try again."
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return BrokerRefused(
            f"the broker gave up waiting: {said}",
            "`appvss apps` names the apps that are not done, each of which goes on by itself at its hold limit; "
            "`appvss status` says how the history does.",
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return BrokerRefused(f"the broker does not know this call: {said}", _VERSIONS_HINT)
    return BrokerRefused(f"the broker failed: {said}", "Its log says more.")


def let_go(error: grpc.RpcError) -> None:
    """Let the call of a broken stream be freed as soon as nobody uses it.

    The error is the call itself, and its traceback leads back to it. Such a ring is freed as late as the interpreter's
    end, where the call's finalizer can wait for ever on a lock of one of gRPC's threads, which are gone by then
    (`_Rendezvous.__del__` in grpc/_channel.py; seen in one end of a hundred).
    """
    error.__traceback__ = None


def unreadable(reason: str) -> BrokerRefused:
    """The error for an answer that breaks the contract."""
    return BrokerRefused(f"the broker's answer cannot be used: {reason}", _VERSIONS_HINT)
