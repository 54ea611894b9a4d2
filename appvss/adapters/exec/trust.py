"""Whether a program may be run: nobody but root and this user can have put something else in its place.

Every folder and every symbolic link on the way to it is looked at, and the file itself by the descriptor that is
executed afterwards. So what was checked is what runs.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from appvss.adapters.errors import SettingInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINK_LIMIT: Final = 40
"""As many symbolic links as Linux follows (path_resolution(7))."""
_SHEBANG_LIMIT: Final = 256
"""Bytes of a first line that Linux reads (execve(2))."""
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH  # an ACL that gives others the right shows in the group's bits
_RUNS_ANOTHER: Final = re.compile(
    r"(ba|da|k|mk|z|c|tc|fi)?sh[0-9.]*|busybox|python[0-9.]*|perl[0-9.]*|ruby[0-9.]*|node|php[0-9.]*|lua[0-9.]*|tclsh|env|sudo|su|runuser"
    r"|setpriv|nice|ionice|nsenter|chroot|timeout|stdbuf|flock|systemd-run"
)
"""Programs that run a file which is one of their arguments."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that has passed, opened."""

    path: str
    """Where it is, with every symbolic link resolved."""
    descriptor: int


@contextmanager
def trusted(command: Sequence[str]) -> Iterator[Program]:
    """The program of a command, opened to be executed.

    With a program that runs another one (a shell, `env`, `sudo`), every argument that names a file is looked at, too.

    Args:
        command: the program's absolute path, and its arguments.

    Raises:
        SettingInvalid: it is not there, is no program, or others could have changed it.
    """
    with _opened(command[0], "program") as program:
        if not os.fstat(program.descriptor).st_mode & 0o111:
            raise SettingInvalid(f"the program {program.path} is not executable", f"Run `chmod +x {program.path}`.")
        interpreter = _interpreter(program.descriptor)
        runners = [command[0], program.path, *interpreter[:1]]  # a link has another name than what it leads to
        for path in interpreter[:1]:
            with _opened(path, "interpreter") as found:
                runners.append(found.path)
        if any(_RUNS_ANOTHER.fullmatch(os.path.basename(each)) for each in runners):
            for argument in (*interpreter[1:], *command[1:]):
                file = os.path.join("/", argument)  # where it is started (`keeper.py`)
                if os.path.isfile(file):
                    with _opened(file, "file"):
                        pass
        yield program


def _interpreter(descriptor: int) -> list[str]:
    """The interpreter of a script and its argument; empty: it is no script."""
    line = os.pread(descriptor, _SHEBANG_LIMIT, 0)
    if not line.startswith(b"#!"):
        return []
    return os.fsdecode(re.split(rb"[\n\0]", line[2:])[0]).split(maxsplit=1)


@contextmanager
def _opened(path: str, what: str) -> Iterator[Program]:
    if not os.path.isabs(path):
        raise SettingInvalid(f"the {what} {path!r} is not named by its absolute path", "Write the whole path.")
    try:
        real, descriptor = _walk(path, what)
    except OSError as error:
        raise SettingInvalid(
            f"the {what} {path} cannot be opened: {error.strerror}", "Name a file that is there."
        ) from error
    try:
        yield Program(real, descriptor)
    finally:
        os.close(descriptor)


def _walk(path: str, what: str) -> tuple[str, int]:
    """Go down to a file, one name after the other, and look at everything on the way."""
    rest = path.split("/")[::-1]
    place, links = "/", 0
    folder = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _look(os.fstat(folder), place, what, path)
        while rest:
            name = rest.pop()
            if name in ("", "."):
                continue
            about = os.stat(name, dir_fd=folder, follow_symlinks=False)
            there = os.path.normpath(os.path.join(place, name))
            _look(about, there, what, path)
            if stat.S_ISLNK(about.st_mode):
                links += 1
                if links > _LINK_LIMIT:
                    raise SettingInvalid(f"the {what} {path} has too many symbolic links", "Name the file itself.")
                target = os.readlink(name, dir_fd=folder)
                rest += target.split("/")[::-1]
                if target.startswith("/"):
                    place, folder = "/", _exchange(folder, os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            elif stat.S_ISDIR(about.st_mode):
                opened = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                place, folder = there, _exchange(folder, opened)
            elif any(each not in ("", ".") for each in rest):
                raise NotADirectoryError(0, "a part of its path is no folder")
            else:
                return there, _open_file(name, folder, there, what, path)
    finally:
        os.close(folder)
    raise SettingInvalid(f"the {what} {path} is a folder", "Name a program.")


def _exchange(former: int, opened: int) -> int:
    os.close(former)
    return opened


def _open_file(name: str, folder: int, there: str, what: str, path: str) -> int:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise SettingInvalid(f"the {what} {path} is no plain file", "Name a program.")
        _look(about, there, what, path)
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise
    return descriptor


def _look(about: os.stat_result, there: str, what: str, path: str) -> None:
    """Refuse what others could change.

    Raises:
        SettingInvalid: others could.
    """
    if about.st_uid not in (0, os.geteuid()):
        raise SettingInvalid(
            f"the {what} {path} is not safe: {there} belongs to user {about.st_uid}",
            f"Run `chown root {there}`, or keep the program elsewhere: whoever owns it decides what runs.",
        )
    if stat.S_ISLNK(about.st_mode) or not about.st_mode & _WRITABLE_BY_OTHERS:
        return
    # In a folder with the sticky bit nobody can rename or remove what belongs to root or to this user (inode(7)), and
    # what belongs to anybody else is refused.
    if stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX:
        return
    raise SettingInvalid(
        f"the {what} {path} is not safe: {there} has mode {stat.S_IMODE(about.st_mode):04o}, so others may change it",
        f"Run `chmod go-w {there}`, or keep the program elsewhere.",
    )
