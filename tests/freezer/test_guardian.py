"""The guardian's program by itself, spoken to as the broker does."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appvss.freezer import guardian
from tests.freezer.held_disks import BOUND, session_of
from tests.support.loop_disks import LoopDisks, is_frozen, takes_a_write


class Spoken:
    """A guardian and our end of its channel."""

    def __init__(self, directory: Path) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(BOUND)
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        with theirs:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", "-B", guardian.__file__),
                    *(str(theirs.fileno()), str(self._directory)),
                ],
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(), self._directory),
                start_new_session=True,
            )

    def say(self, do: str, descriptor: int = -1, **more: Any) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))] if descriptor >= 0 else []
        self.channel.sendmsg([json.dumps({"do": do, "cycle": "c", **more}).encode()], rights)

    def hear(self) -> dict[str, Any]:
        return json.loads(self.channel.recv(guardian.PACKET_LIMIT))

    def until(self, said: str) -> list[dict[str, Any]]:
        """What it says, up to this word."""
        heard = [self.hear()]
        while heard[-1]["said"] != said:
            heard.append(self.hear())
        return heard

    def open(self, path: Path, wave: int = 0) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.say("open", descriptor, wave=wave)
        os.close(descriptor)

    def close(self) -> None:
        self.channel.close()
        os.close(self._directory)
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
        self.process.wait(BOUND)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def spoken(tmp_path: Path, loop_disks: LoopDisks) -> Iterator[Spoken]:  # it ends before the disks
    spoken = Spoken(tmp_path)
    try:
        yield spoken
    finally:
        spoken.close()


def freeze(spoken: Spoken, *paths: Path, limit: float = BOUND) -> None:
    for wave, path in enumerate(paths):
        spoken.open(path, wave)
    spoken.say("sync")
    spoken.say("freeze", limit=limit, tolerates=False)
    spoken.until("held")


def test_it_says_who_it_is_and_loads_nothing_of_the_package(spoken: Spoken) -> None:
    ready = spoken.hear()
    refused = ready.pop("protected")  # it takes CAP_SYS_RESOURCE, which not every root has
    assert ready == {"said": "ready", "cycle": "", "pid": spoken.process.pid, "locked": 0}
    assert refused in (0, errno.EACCES, errno.EPERM)
    maps = Path(f"/proc/{spoken.process.pid}/maps").read_text()
    assert "grpc" not in maps
    assert "ssl" not in maps
    if not refused:
        assert Path(f"/proc/{spoken.process.pid}/oom_score_adj").read_text().strip() == "-1000"


def test_each_wave_is_frozen_after_the_one_before_and_thawed_in_reverse(spoken: Spoken, loop_disks: LoopDisks) -> None:
    paths = [loop_disks.make(name).path for name in ("first", "second", "third")]
    for wave, path in enumerate(paths):
        spoken.open(path, wave)
    spoken.say("sync")
    spoken.say("freeze", limit=BOUND, tolerates=False)
    heard = spoken.until("held")
    assert [each["target"] for each in heard if each["said"] == "frozen"] == [0, 1, 2]
    spoken.say("thaw")
    heard = spoken.until("done")
    assert [each["target"] for each in heard if each["said"] == "thawed"] == [2, 1, 0]
    assert all(takes_a_write(path) for path in paths)


def test_a_broker_that_does_not_read_does_not_hold_up_the_limit(spoken: Spoken, loop_disks: LoopDisks) -> None:
    path = loop_disks.make("data").path
    freeze(spoken, path, limit=1.0)
    spoken.channel.setblocking(False)
    flood = json.dumps({"do": "thaw", "cycle": "another"}).encode()
    deadline = time.monotonic() + BOUND
    sent = 0
    while time.monotonic() < deadline and sent < 2000:  # each is answered, and the answers are not read
        try:
            spoken.channel.send(flood)
            sent += 1
        except BlockingIOError:
            time.sleep(0.001)
    assert takes_a_write(path)
    spoken.channel.settimeout(BOUND)
    assert sum(each["said"] == "done" for each in spoken.until("thawed")) == 2000


@pytest.mark.parametrize(
    "packet", [b"no json", b"{}", b'{"do": "open", "cycle": "c", "wave": 0}', b'{"do": "freeze", "cycle": "c"}']
)
def test_what_it_does_not_understand_ends_it_and_every_hold(
    spoken: Spoken, loop_disks: LoopDisks, packet: bytes
) -> None:
    path = loop_disks.make("data").path
    if b"freeze" in packet:
        spoken.open(path)
    else:
        freeze(spoken, path)
    spoken.channel.send(packet)
    assert spoken.until("failed")[-1]["reason"]
    assert spoken.process.wait(BOUND) == 1
    assert takes_a_write(path)


def test_a_descriptor_too_many_is_closed(spoken: Spoken, loop_disks: LoopDisks) -> None:
    path = loop_disks.make("data").path
    freeze(spoken, path)
    descriptor = os.open(path, os.O_RDONLY)
    spoken.say("thaw", descriptor)
    os.close(descriptor)
    spoken.until("done")
    spoken.say("thaw")
    assert spoken.hear()["said"] == "done"
    held = [os.readlink(each) for each in Path(f"/proc/{spoken.process.pid}/fd").iterdir()]
    assert str(path) not in held


def test_a_child_that_dies_again_and_again_is_replaced_and_the_hold_stands(
    spoken: Spoken, loop_disks: LoopDisks
) -> None:
    path = loop_disks.make("data").path
    freeze(spoken, path)
    for _ in range(5):
        (child,) = (pid for pid, state in session_of(spoken.process.pid).items() if pid != spoken.process.pid)
        os.kill(child, signal.SIGKILL)
        assert spoken.hear() == {"said": "replaced", "cycle": "c", "target": 0}
    assert is_frozen(path)
    spoken.say("thaw")
    (thawed,) = (each for each in spoken.until("done") if each["said"] == "thawed")
    assert thawed["errno"] == 0
    assert takes_a_write(path)


def test_a_child_that_is_killed_while_it_syncs_is_replaced_and_syncs(spoken: Spoken, loop_disks: LoopDisks) -> None:
    path = loop_disks.make("data").path
    spoken.open(path)
    spoken.say("sync")
    spoken.until("synced")
    os.kill(spoken.process.pid, signal.SIGSTOP)
    spoken.say("sync")
    (child,) = (pid for pid in session_of(spoken.process.pid) if pid != spoken.process.pid)
    os.kill(child, signal.SIGKILL)
    os.kill(spoken.process.pid, signal.SIGCONT)
    assert spoken.until("synced")[-1]["errno"] == 0


def test_a_freeze_for_which_a_child_is_missing_does_not_wait(spoken: Spoken, loop_disks: LoopDisks) -> None:
    first, second = loop_disks.make("first").path, loop_disks.make("second").path
    spoken.open(first, 0)
    spoken.open(second, 1)
    spoken.say("sync")
    heard = [spoken.hear()["said"] for _ in range(3)]
    assert sorted(heard) == ["ready", "synced", "synced"]
    os.kill(max(session_of(spoken.process.pid)), signal.SIGKILL)
    assert spoken.hear()["said"] == "replaced"
    os.kill(spoken.process.pid, signal.SIGSTOP)
    os.kill(max(session_of(spoken.process.pid)), signal.SIGKILL)  # too soon for another one at once
    spoken.say("freeze", limit=BOUND, tolerates=False)
    os.kill(spoken.process.pid, signal.SIGCONT)
    heard = [spoken.hear()["said"]]
    while heard[-1] not in ("held", "thawing"):  # the former, if this machine was too slow
        heard.append(spoken.hear()["said"])
    spoken.say("thaw")
    spoken.until("done")
    assert takes_a_write(first)
