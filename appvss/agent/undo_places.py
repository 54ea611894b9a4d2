"""Where the undo records of the apps are: one directory for each app, which belongs to the user that the app runs as.

So no app can write, or read, what another one's hold is undone by, and an app is undone with its own rights alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

from appvss.agent.configuration import AppConfiguration
from appvss.agent.users import user_of

_SUFFIX = ".undo"


def place_of(directory: Path, key: str) -> Path:
    """The directory of one app."""
    return directory / quote(key, safe="")


def make_places(directory: Path, apps: Iterable[AppConfiguration]) -> str:
    """Make what is missing. What an app cannot use there, it says itself: it refuses to hold.

    Returns:
        Why some could not be made, one lower-case sentence; empty: all are there.
    """
    try:
        if not directory.is_dir():
            directory.mkdir(parents=True)
            directory.chmod(0o711)  # whatever the umask is: apps of other users enter their own place in it
    except OSError as error:
        return f"{directory} is not usable: {error}"
    failures = []
    for app in apps:
        try:
            _make_place(place_of(directory, app.key), app)
        except (OSError, LookupError) as error:  # the places of all others are made
            failures.append(f"{directory} is not usable for {app.key}: {error}")
    return "; ".join(failures)


def _make_place(place: Path, app: AppConfiguration) -> None:
    place.mkdir(mode=0o700, exist_ok=True)
    user = user_of(app.options.runs_as)
    if os.geteuid() == 0:
        os.chown(place, *((user.uid, user.gid) if user else (0, 0)), follow_symlinks=False)
    place.chmod(0o700)


def has_records(directory: Path, key: str) -> bool:
    """Whether anything lies there that an app has left, or has not finished with."""
    with contextlib.suppress(OSError):
        return any(name.endswith(_SUFFIX) for name in os.listdir(place_of(directory, key)))
    return False


def keys_with_records(directory: Path) -> tuple[str, ...]:
    """The apps that have left something, configured or not."""
    try:
        keys = [unquote(name) for name in sorted(os.listdir(directory))]
    except OSError:
        return ()
    return tuple(key for key in keys if has_records(directory, key))
