from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appvss.history import History, Opened
from tests.history.values import opened
from tests.support.running_broker import short_directory

Open = Callable[..., Opened]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A state directory that is not there yet, in a new directory."""
    path = short_directory()
    yield path / "state"
    shutil.rmtree(path)


@pytest.fixture
def start() -> Iterator[Open]:
    """Opens a state directory; every history that it gave is closed at the end."""
    with ExitStack() as stack:

        def begin(directory: Path, *arguments: Any, **rest: Any) -> Opened:
            begun = opened(directory, *arguments, **rest)
            stack.callback(begun.history.close, timedelta(seconds=5))
            return begun

        yield begin


@pytest.fixture
def history(directory: Path, start: Open) -> History:
    return start(directory).history


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts things with the options of mount(8), and gives their places; all are gone at the end. Root alone can."""
    with ExitStack() as stack:

        def mount(*options: str) -> Path:
            place = tmp_path / f"mount-{len(list(tmp_path.iterdir()))}"
            place.mkdir()
            command = ("mount", *options, str(place))
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
            if done.returncode:
                pytest.skip(f"this user cannot mount here: {done.stderr.strip()}")
            stack.callback(subprocess.run, ("umount", "-l", str(place)), check=False, timeout=30)
            return place

        yield mount
