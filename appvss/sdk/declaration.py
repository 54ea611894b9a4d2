"""What an author declares when an app is served, checked at the call, before anything is opened."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from appvss import contract
from appvss.model.app import AppId, HoldClaim, Registration, Requirement
from appvss.model.errors import UsageError
from appvss.model.grade import Grade
from appvss.model.names import check_name
from appvss.model.version import VERSION
from appvss.sdk.identity import incarnation
from appvss.v1 import app_pb2

LIBRARY: Final = f"appvss-python/{VERSION}"
_INT32: Final = range(-(2**31), 2**31)
_NOTHING: Final = timedelta(0)


@dataclass(frozen=True, slots=True)
class Declaration:
    """An app and the place of its broker."""

    registration: Registration
    paths: tuple[str, ...]
    directory: Path
    apps_socket: str
    peer_socket: str

    @property
    def app(self) -> AppId:
        """Who the app is."""
        return self.registration.app

    def hello(self, claim: HoldClaim | None = None) -> app_pb2.AttachRequest:
        """The first message of a stream."""
        declared = self.registration
        hello = contract.hello_message(declared, incarnation=incarnation(), library=LIBRARY, paths=self.paths)
        if claim is not None:
            hello.holding.cycle = claim.cycle
            hello.holding.held_for.FromTimedelta(claim.held_for)
        return app_pb2.AttachRequest(hello=hello)


def declare(
    name: str,
    *,
    order: int,
    after: Iterable[str],
    requirement: str,
    freeze_timeout: timedelta | None,
    hold_limit: timedelta,
    paths: Iterable[str | os.PathLike[str]],
    watch_paths: bool,
    grade: str,
    instance: str,
    runtime_directory: str | os.PathLike[str] | None,
    prepares: bool,
) -> Declaration:
    """An author's arguments as a declaration. Their meaning stands at `appvss.serve`.

    Raises:
        NameInvalid: name, instance or a name in `after` may not be used.
        SocketPathTooLong: the runtime directory's path is too long for a socket.
        UsageError: any other argument is not what it should be.
    """
    kept = _paths(paths, watched=_flag("watch_paths", watch_paths))
    registration = Registration(
        app=AppId(_text("name", name), _text("instance", instance)),
        order=_order(order),
        after=tuple(check_name(_text("after", each), "name in after") for each in _entries("after", after)),
        requirement=_requirement(requirement),
        prepares=prepares,
        freeze_timeout=None if freeze_timeout is None else _length("freeze_timeout", freeze_timeout),
        hold_limit=_length("hold_limit", hold_limit),
        watch_paths=watch_paths,
        grade=_grade(grade),
    )
    if len(registration.after) > contract.AFTER_LIMIT:
        raise UsageError(
            f"after has {len(registration.after)} names, over {contract.AFTER_LIMIT}",
            "Name only the apps that must be frozen right before this one; their own `after` does the rest.",
        )
    directory = contract.runtime_directory(runtime_directory)
    declaration = Declaration(
        registration=registration,
        paths=kept,
        directory=directory,
        apps_socket=contract.socket_path(directory, contract.APPS_SOCKET),
        peer_socket=contract.socket_path(directory, contract.PEER_SOCKET),
    )
    size = declaration.hello().ByteSize()
    if size > contract.MESSAGE_LIMIT:
        raise UsageError(
            f"the declaration has {size} bytes, over {contract.MESSAGE_LIMIT}", "Declare fewer or shorter paths."
        )
    return declaration


def check_function(what: str, function: Callable[..., Any], hint: str, *, coroutine: bool = False) -> None:
    """Raise if `function` cannot be what the app is to call: a mistake that would else show in the first freeze.

    Args:
        what: the argument's name, for the sentence.
        function: the argument.
        hint: what to do instead.
        coroutine: whether it may be an `async def`. A bare generator function never may: its decorator is missing.

    Raises:
        UsageError: it is not callable, or of the wrong kind.
    """
    if not callable(function):
        raise UsageError(f"{what} is {function!r}, which cannot be called", f"Pass a function as `{what}`.")
    generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    if generator or (inspect.iscoroutinefunction(function) and not coroutine):
        raise UsageError(f"{what} is the wrong kind of function: {function!r}", hint)


def _text(what: str, value: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what} is {value!r}, which is not text", f"Pass `{what}` as a str.")
    return value


def _entries(what: str, values: Iterable[Any]) -> tuple[Any, ...]:
    if isinstance(values, str | bytes):
        raise UsageError(f"{what} is the single text {values!r}", f"Pass `{what}` as a list or tuple of texts.")
    return tuple(values)


def _order(order: int) -> int:
    if not isinstance(order, int) or order not in _INT32:
        raise UsageError(
            f"order is {order!r}, which is not a whole number of 32 bits",
            "Lower orders freeze first; the default is 50.",
        )
    return order


def _requirement(requirement: str) -> Requirement:
    try:
        return Requirement(requirement)
    except ValueError as error:
        known = ", ".join(Requirement)
        raise UsageError(f"requirement is {requirement!r}", f"Choose one of: {known}.") from error


def _grade(grade: str) -> Grade:
    if grade not in (Grade.APP, Grade.FS):
        raise UsageError(f"grade is {grade!r}", f"Choose one of: {Grade.APP}, {Grade.FS}.")
    return Grade(grade)


def _length(what: str, length: timedelta) -> timedelta:
    if not isinstance(length, timedelta):
        raise UsageError(f"{what} is {length!r}, which is not a timedelta", f"Write {what}=timedelta(seconds=...).")
    if length <= _NOTHING:
        raise UsageError(f"{what} is {length.total_seconds()} s", f"Give `{what}` a length above zero.")
    return length


def _flag(what: str, flag: bool) -> bool:
    if not isinstance(flag, bool):
        raise UsageError(f"{what} is {flag!r}", f"Pass `{what}` as True or False.")
    return flag


def _paths(paths: Iterable[str | os.PathLike[str]], *, watched: bool) -> tuple[str, ...]:
    kept = tuple(os.fsdecode(path) for path in _entries("paths", paths))
    if len(kept) > contract.PATHS_LIMIT:
        raise UsageError(
            f"paths has {len(kept)} entries, over {contract.PATHS_LIMIT}", "Name the folders instead of the files."
        )
    for path in kept:
        if len(path) > contract.PATH_LENGTH_LIMIT:
            raise UsageError(
                f"a path has {len(path)} characters, over {contract.PATH_LENGTH_LIMIT}: {path[:40]!r}...",
                "Name a folder above it.",
            )
    if watched:
        contract.check_watchable(kept)
    # A file name may hold bytes that are no text; a protobuf string may not.
    return tuple(path.encode(errors="replace").decode() for path in kept)
