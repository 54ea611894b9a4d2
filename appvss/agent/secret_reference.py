"""Secrets by reference: a file, a variable of the environment, a credential of systemd (systemd.exec(5), CREDENTIALS).

The configuration says where a secret is. It is read for each connection, in the process that connects, and is in no
message: every sentence here names the place alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from appvss.adapters.errors import SettingInvalid
from appvss.adapters.settings import Secret
from appvss.model.names import printable

FORMS: Final = '{ file = "/etc/appvss/NAME.password" }, { environment = "NAME" } or { credential = "NAME" }'
CREDENTIALS_DIRECTORY: Final = "CREDENTIALS_DIRECTORY"
SIZE_LIMIT: Final = 64 * 1024
_TEXT_LIMIT: Final = 1024
_OTHERS: Final = stat.S_IRWXO | stat.S_IWGRP
"""Rights that a secret's file gives to nobody: anything to others, and writing to its group."""


class FileSecret(Secret):
    """A secret in a file, which its owner and its group alone may read.

    Args:
        path: the file; one line break at its end is not part of the secret.
        source: where it is, for people.
    """

    __slots__ = ("path",)

    def __init__(self, path: Path, source: str) -> None:
        super().__init__(self._content, source)
        self.path = path

    def problems(self) -> Iterator[str]:
        """What is wrong with the file now, as far as this user can see it; one sentence each. Reads nothing of it."""
        try:
            about = self.path.stat()
        except PermissionError:
            return  # the agent's own user may, or the app's
        except OSError as error:
            yield f"{self.source} cannot be read: {(error.strerror or str(error)).lower()}"
            return
        yield from _wrong(about, self.source)

    def _content(self) -> str:
        hint = "Make it a file that the app's user alone can read, as `chmod 0600` does."
        try:
            # O_NONBLOCK: a FIFO in its place must not be waited for.
            with open(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                for problem in _wrong(os.fstat(file.fileno()), self.source):
                    raise SettingInvalid(problem, hint)
                content = file.read(SIZE_LIMIT + 1)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise SettingInvalid(f"{self.source} cannot be read: {reason}", hint) from error
        if len(content) > SIZE_LIMIT:
            raise SettingInvalid(f"{self.source} has more than {SIZE_LIMIT} bytes", "Name the file of the password.")
        try:
            text = content.decode()
        except UnicodeDecodeError:
            # Not chained: the error carries the content.
            raise SettingInvalid(f"{self.source} is not UTF-8 text", "Write the password as text.") from None
        return text.removesuffix("\n").removesuffix("\r")


def secret_of(reference: Mapping[str, object]) -> Secret:
    """The secret that a table of the configuration refers to; nothing is read yet.

    Raises:
        ValueError: it is no reference. The sentence repeats no value: that may be the secret.
    """
    if len(reference) != 1 or not set(reference) <= set(_SOURCES):
        names = ", ".join(printable(str(name), 40) for name in reference) or "nothing"
        raise ValueError(f"a secret's table has exactly one of file, environment and credential, not {names}")
    ((name, value),) = reference.items()
    if not isinstance(value, str) or not value or not value.isprintable() or len(value) > _TEXT_LIMIT:
        raise ValueError(f"{name} must be a printable text that is not empty; write {FORMS}")
    return _SOURCES[name](value)


def _file(value: str) -> Secret:
    if not value.startswith("/"):
        raise ValueError("file must be an absolute path; begin it with /")
    return FileSecret(Path(value), f"the file {value}")


def _environment(value: str) -> Secret:
    source = f"the environment variable {value}"

    def read() -> str:
        if value not in os.environ:
            raise SettingInvalid(f"{source} is not set", "Set it for the agent's service, and start that again.")
        return os.environ[value]

    return Secret(read, source)


def _credential(value: str) -> Secret:
    if "/" in value or value in (".", ".."):
        raise ValueError("credential must be a name, without a /")
    source = f"the credential {value}"

    def read() -> str:
        directory = os.environ.get(CREDENTIALS_DIRECTORY)
        if not directory:
            raise SettingInvalid(
                f"{source} cannot be read: {CREDENTIALS_DIRECTORY} is not set",
                f"Run the agent as a service of systemd, with `LoadCredential={value}:/etc/appvss/{value}`.",
            )
        return FileSecret(Path(directory) / value, source).reveal()

    return Secret(read, source)


_SOURCES: Final = {"file": _file, "environment": _environment, "credential": _credential}


def _wrong(about: os.stat_result, source: str) -> Iterator[str]:
    if not stat.S_ISREG(about.st_mode):
        yield f"{source} is no regular file"
    elif about.st_mode & _OTHERS:
        yield f"{source} is open to others, its mode is {stat.S_IMODE(about.st_mode):04o}; `chmod 0600` mends it"
