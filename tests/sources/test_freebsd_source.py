"""The source without a device: what is wrong is said, and nothing is left behind. With it: test_freebsd_device.py."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tenacity import AsyncRetrying, RetryCallState, wait_fixed, wait_none

from appvss.model.errors import DeviceAbsent, DeviceWrong, SourceError
from appvss.model.request import Answer, Request, RequestKind
from appvss.model.source import SourceCondition, SourceMode
from appvss.sources.freebsd import FreebsdSettings, FreebsdSource
from appvss.sources.freebsd.source import PAUSE
from tests.sources.device_support import (
    NOTHING,
    WAIT,
    Listener,
    MachineClock,
    left_behind,
    make_path,
    new_since,
    running,
    without_override,
)


def settings(path: Path | str, mode: SourceMode) -> FreebsdSettings:
    return FreebsdSettings(device=str(path), mode=mode)


BAD = [
    ("missing", DeviceAbsent, "does not exist"),
    ("plain", DeviceWrong, "it does not answer the driver's READ"),
    ("folder", DeviceWrong, "it does not answer the driver's READ"),
    ("fifo", DeviceWrong, "it does not answer the driver's READ"),
    ("null", DeviceWrong, "it does not answer the driver's READ"),
    ("loop", DeviceWrong, "it cannot be opened"),
]


@pytest.mark.parametrize(("kind", "error", "words"), BAD)
async def test_a_required_device_that_is_none_ends_the_start(
    tmp_path: Path, kind: str, error: type[SourceError], words: str
) -> None:
    before = left_behind()
    path = make_path(tmp_path, kind)
    source = FreebsdSource(settings(path, SourceMode.REQUIRED), MachineClock())
    with pytest.raises(error, match=words) as caught:
        async with asyncio.timeout(WAIT):
            await source.run(Listener())
    assert str(path) in caught.value.sentence
    assert source.state.condition is SourceCondition.WAITING
    assert new_since(before) == NOTHING


@pytest.mark.parametrize(("kind", "error", "words"), BAD)
async def test_an_automatic_device_that_is_none_is_waited_for(
    tmp_path: Path, kind: str, error: type[SourceError], words: str
) -> None:
    path = make_path(tmp_path, kind)
    listener = Listener()
    source = FreebsdSource(settings(path, SourceMode.AUTOMATIC), MachineClock(), pause=wait_fixed(WAIT))
    async with running(source, listener):
        state = await listener.next_state()
    assert state == source.state
    assert (state.name, state.mode, state.condition) == ("freebsd", SourceMode.AUTOMATIC, SourceCondition.WAITING)
    assert state.detail.startswith(f"{path} ")
    assert words in state.detail
    assert state.detail.endswith(".")


async def test_what_is_wrong_is_told_when_it_changes_and_not_at_every_attempt(tmp_path: Path) -> None:
    path = tmp_path / "device"
    listener = Listener()
    source = FreebsdSource(settings(path, SourceMode.AUTOMATIC), MachineClock(), pause=wait_none())
    async with running(source, listener):
        assert "does not exist" in (await listener.next_state()).detail
        path.touch()
        assert "READ" in (await listener.next_state()).detail
        path.unlink()
        assert "does not exist" in (await listener.next_state()).detail
    assert len(listener.states) == 3
    assert len({state.since for state in listener.states}) == 1


async def test_off_is_off(tmp_path: Path) -> None:
    before = left_behind()
    listener = Listener()
    source = FreebsdSource(settings(tmp_path / "device", SourceMode.OFF), MachineClock())
    async with asyncio.timeout(WAIT):
        await source.run(listener)
    assert (source.state.condition, listener.states) == (SourceCondition.OFF, [])
    assert new_since(before) == NOTHING


async def test_cancelling_leaves_nothing_while_it_opens(tmp_path: Path) -> None:
    before = left_behind()
    source = FreebsdSource(settings(tmp_path / "device", SourceMode.AUTOMATIC), MachineClock())
    async with running(source, Listener()):
        await asyncio.sleep(0)
        assert new_since(before) != NOTHING
    assert new_since(before) == NOTHING


async def test_cancelling_leaves_nothing_while_it_waits(tmp_path: Path) -> None:
    before = left_behind()
    listener = Listener()
    source = FreebsdSource(settings(tmp_path / "device", SourceMode.AUTOMATIC), MachineClock(), pause=wait_fixed(WAIT))
    async with running(source, listener):
        await listener.next_state()
        # Between two attempts nothing of the last one is left: no thread, no process, no descriptor.
        assert new_since(before) == NOTHING
    assert new_since(before) == NOTHING


async def test_an_answer_without_a_device_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = FreebsdSource(settings(tmp_path / "device", SourceMode.AUTOMATIC), MachineClock())
    request = Request("4711", "freebsd", RequestKind.CHECK, "Hyper-V host", MachineClock().now())
    with caplog.at_level(logging.WARNING, "appvss.sources.freebsd"):
        source.answer(Answer(request, go_on=True, reason=""))
    assert caplog.messages == ["the answer to request 4711 is not sent: the device is gone"]


@pytest.mark.parametrize(
    ("attempt", "least", "most"), [(1, 0.5, 1.5), (2, 1, 2), (4, 4, 5), (7, 30, 31), (5000, 30, 31)]
)
def test_the_pauses_grow_and_stay_bounded(attempt: int, least: float, most: float) -> None:
    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.attempt_number = attempt
    pauses = {PAUSE(state) for _ in range(50)}
    assert least <= min(pauses) < max(pauses) <= most


def test_a_process_without_descriptors_is_told() -> None:
    program = (
        "import asyncio, os, resource\n"
        "from appvss.model.errors import SourceError\n"
        "from appvss.model.source import SourceMode\n"
        "from appvss.sources.freebsd import FreebsdSettings, FreebsdSource\n"
        "from tests.sources.device_support import Listener, MachineClock\n"
        "async def main():\n"
        "    first = os.dup(0)\n"
        "    os.close(first)\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (first, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "    source = FreebsdSource(FreebsdSettings(mode=SourceMode.REQUIRED), MachineClock())\n"
        "    try:\n"
        "        await source.run(Listener())\n"
        "    except SourceError as error:\n"
        "        print(error.sentence)\n"
        "asyncio.run(main())\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=WAIT, check=True
    )
    assert answer.stdout == "no thread can be started for /dev/hv_appvss_dev: [Errno 24] Too many open files\n"


def test_a_device_without_rights_is_forbidden(tmp_path: Path) -> None:
    weaker = without_override()
    path = tmp_path / "device"
    path.touch(mode=0)
    program = (
        "import asyncio, sys\n"
        "from appvss.model.errors import SourceError\n"
        "from appvss.model.source import SourceMode\n"
        "from appvss.sources.freebsd import FreebsdSettings, FreebsdSource\n"
        "from tests.sources.device_support import Listener, MachineClock\n"
        "settings = FreebsdSettings(device=sys.argv[1], mode=SourceMode.REQUIRED)\n"
        "try:\n"
        "    asyncio.run(FreebsdSource(settings, MachineClock()).run(Listener()))\n"
        "except SourceError as error:\n"
        "    print(error.name, error.sentence, error.exit_code.name)\n"
    )
    answer = subprocess.run(
        [*weaker, sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=WAIT,
        check=True,
    )
    assert answer.stdout == f"DeviceForbidden uid {os.geteuid()} may not open {path} FORBIDDEN\n"
