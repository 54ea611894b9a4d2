"""What listens: how it starts in the place of a dead broker, and what it says when it cannot."""

from __future__ import annotations

import shutil
import socket
import stat
from pathlib import Path

import grpc
import pytest

from appvss.model.errors import ExitCode
from tests.support.raw_app import SideConnection, attached, raw_app
from tests.support.running_broker import BrokerEnded, launched_broker, running_broker

SOCKETS = ("apps.sock", "apps.peer.sock", "admin.sock")


async def test_modes_of_the_sockets(directory: Path) -> None:
    async with running_broker(directory=directory) as broker:
        modes = {name: stat.S_IMODE((broker.runtime_directory / name).stat().st_mode) for name in SOCKETS}
        assert modes == {"apps.sock": 0o660, "apps.peer.sock": 0o660, "admin.sock": 0o600}
        assert stat.S_IMODE(broker.runtime_directory.stat().st_mode) == 0o750
        assert await broker.terminate() == 0
        assert sorted(path.name for path in broker.runtime_directory.iterdir()) == ["broker.lock"]


async def test_sockets_of_a_killed_broker_are_replaced(directory: Path) -> None:
    async with running_broker(directory=directory) as first:
        await first.kill()
        assert all((first.runtime_directory / name).exists() for name in SOCKETS)
    async with running_broker(directory=directory) as second, attached(second.runtime_directory, "a", identified=True):
        assert (await second.status()).apps == 1


async def test_second_broker_leaves_the_first_ones_sockets_alone(directory: Path) -> None:
    async with running_broker(directory=directory) as first:
        before = [(first.runtime_directory / name).stat() for name in SOCKETS]
        async with launched_broker(directory=directory) as second:
            assert await second.exit_code() == ExitCode.ALREADY_RUNNING
            told = [line for line in second.log if " INFO " not in line]  # a user without rights is told so before
            assert told[0] == (
                f"appvss: another broker (process {first.pid}) holds {first.runtime_directory / 'broker.lock'}"
            )
            assert told[1].startswith("HINT: ")
            assert len(told) == 2
        assert [(first.runtime_directory / name).stat() for name in SOCKETS] == before
        async with attached(first.runtime_directory, "a", identified=True):
            assert (await first.status()).apps == 1


@pytest.mark.parametrize("name", SOCKETS)
async def test_something_else_lies_in_a_sockets_place(directory: Path, name: str) -> None:
    run = directory / "run"
    run.mkdir(0o750)
    (run / name).mkdir()
    async with launched_broker(directory=directory) as broker:
        with pytest.raises(BrokerEnded):
            await broker.ready()
        assert await broker.exit_code() == ExitCode.FORBIDDEN
        complaint, hint = broker.log[-2:]
        assert complaint.startswith(f"appvss: the sockets in {run} cannot be made: ")
        assert hint.startswith("HINT: Take away what lies in their place")
        assert not [line for line in broker.log if "Traceback" in line]
    shutil.rmtree(run)


async def test_after_the_stop_nobody_listens(directory: Path) -> None:
    async with running_broker(directory=directory) as broker, attached(broker.runtime_directory, "a") as app:
        assert await broker.terminate() == 0
        assert (await app.hear("goodbye")).reason == "the broker stops"
        assert (await app.ending()).code is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(FileNotFoundError):
            await SideConnection.open(broker.runtime_directory)
        async with raw_app(broker.runtime_directory) as late:
            assert (await late.ending()).code is grpc.StatusCode.UNAVAILABLE
        with socket.socket(socket.AF_UNIX) as admin, pytest.raises(FileNotFoundError):
            admin.connect(str(broker.runtime_directory / "admin.sock"))
