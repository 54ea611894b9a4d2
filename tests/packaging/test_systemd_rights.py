"""The broker with the rights that its unit leaves it, and no others: capabilities, files, memory, system calls.

systemd itself need not run: the same limits are set by hand from what the unit says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from appvss import contract
from appvss.model.filesystem import FilesystemChoice, Scope
from appvss.v1 import types_pb2
from tests.faults import system_calls
from tests.faults.system_calls import Trace, tracing
from tests.packaging.unit import SERVICE, Unit
from tests.support.app_process import app_process
from tests.support.holds import HoldCall
from tests.support.loop_disks import LoopDisks, loop_disks, takes_a_write
from tests.support.raw_app import attached
from tests.support.running_broker import APPVSS, BOUND, QUIET, running_broker

__all__ = ["loop_disks"]  # a fixture

NOBODY = 65534
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec "$@"'
"""All but one directory, as ProtectSystem=strict does."""
LIMITED = Path(__file__).with_name("limited.py")


@pytest.fixture
def as_service(directory: Path) -> tuple[str, ...]:
    """What to put before a command so that it has the unit's rights, and may write in `directory` alone."""
    if os.geteuid() != 0:
        pytest.skip("only root can give rights up one by one")
    missing = [name for name in ("unshare", "setpriv", "mount") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    directory.chmod(0o711)  # apps are somebody else
    kept = [name.removeprefix("CAP_").lower() for name in Unit(SERVICE).words("CapabilityBoundingSet")]
    bounds = ",".join(["-all", *(f"+{name}" for name in kept)])
    command = ("unshare", "--mount", "sh", "-c", READ_ONLY, str(directory), "setpriv", "--no-new-privs")
    rights = ("--inh-caps=-all", f"--bounding-set={bounds}", sys.executable, "-I", str(LIMITED))
    before = (*command, *rights)
    if subprocess.run([*before, "true"], capture_output=True, timeout=BOUND, check=False).returncode:
        pytest.skip("this machine lets nobody make a mount namespace")
    return before


async def test_the_unit_leaves_the_broker_every_right_that_it_needs(
    directory: Path, as_service: tuple[str, ...]
) -> None:
    text = QUIET.replace('socket_group = ""', 'socket_group = "nogroup"')
    state = ("--state-directory", str(directory / "state"))
    async with running_broker(text, directory=directory, arguments=state, command=(*as_service, *APPVSS)) as broker:
        async with app_process(broker.runtime_directory, "orders-db", uid=NOBODY) as app:
            await app.line("welcome")
            (known,) = await broker.apps()
            assert known.peer.uid == NOBODY
            hold = await HoldCall.begin(broker)
            await app.line("freeze")
            await hold.held()
            await hold.finish()
            await app.line("thaw")
            assert (await hold.verdict()).level == types_pb2.LEVEL_APPLICATION
        assert (await broker.status()).history.condition == "keeping"
        assert await broker.terminate() == 0
        assert not [line for line in broker.log if "no right" in line or "WARNING" in line or "Traceback" in line]


def locked_kilobytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmLck:")[2].split()[0])


async def test_the_unit_lets_the_broker_freeze_file_systems_with_its_guardian_in_memory(
    directory: Path, as_service: tuple[str, ...], loop_disks: LoopDisks
) -> None:
    disk = loop_disks.make("data")
    state = ("--state-directory", str(directory / "state"))
    async with running_broker(directory=directory, arguments=state, command=(*as_service, *APPVSS)) as broker:
        choice = FilesystemChoice(Scope.NAMED, (str(disk.path),))
        hold = await HoldCall.begin(broker, filesystems=choice)
        await hold.held()
        status = await broker.status()
        assert [one.path for one in status.freezer.frozen] == [str(disk.path)]
        assert locked_kilobytes(status.freezer.guardian_pid) > 0
        await hold.finish()
        (part,) = (await hold.verdict()).filesystems
        assert part.outcome == types_pb2.FILESYSTEM_OUTCOME_HELD
        assert takes_a_write(disk.path)
        assert await broker.terminate() == 0
        assert not [line for line in broker.log if "not locked" in line or "Traceback" in line]


def test_what_the_unit_forbids_is_forbidden(as_service: tuple[str, ...]) -> None:
    program = "import os; os.mkdir('/tmp/av-must-not-be')"
    done = subprocess.run([*as_service, sys.executable, "-c", program], capture_output=True, timeout=BOUND, check=False)
    assert b"Read-only file system" in done.stderr
    program = "import os; os.setuid(1)"
    done = subprocess.run([*as_service, sys.executable, "-c", program], capture_output=True, timeout=BOUND, check=False)
    assert b"Operation not permitted" in done.stderr
    program = "import socket; socket.socket(socket.AF_INET)"
    done = subprocess.run([*as_service, sys.executable, "-c", program], capture_output=True, timeout=BOUND, check=False)
    assert b"Address family not supported" in done.stderr
    program = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)"
    done = subprocess.run([*as_service, sys.executable, "-c", program], capture_output=True, timeout=BOUND, check=False)
    assert done.returncode, "memory that is both written and run"


def allowed_calls(group: str) -> set[str]:
    """The system calls of one of systemd's groups and of the groups in it."""
    said = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", group],
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=True,
    ).stdout
    names = {line.strip() for line in said.splitlines()[1:] if line.strip() and "#" not in line}
    return {name for name in names if not name.startswith("@")}.union(
        *(allowed_calls(name) for name in names if name.startswith("@"))
    )


async def test_the_broker_calls_nothing_that_the_unit_s_filter_refuses(directory: Path) -> None:
    if reason := system_calls.why_not() or ("" if shutil.which("systemd-analyze") else "systemd is not installed"):
        pytest.skip(reason)
    file = directory / "trace"
    command = (*tracing(file, everything=True), *APPVSS)
    state = ("--state-directory", str(directory / "state"))
    async with running_broker(directory=directory, arguments=state, command=command) as broker:
        async with attached(broker.runtime_directory, identified=True) as app:
            hold = await HoldCall.begin(broker)
            await app.freeze()
            await hold.held()
            await hold.finish()
            await app.thaw()
            await hold.verdict()
        assert await broker.terminate() == 0
    trace, unit = Trace.read(file), Unit(SERVICE)
    assert trace.first("bind", contract.APPS_SOCKET)
    assert trace.names - allowed_calls(unit.value("SystemCallFilter")) == set()
