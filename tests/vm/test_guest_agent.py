"""QEMU's guest agent with `appvss hook` as its hook: it freezes, the monitor takes a snapshot, the snapshot is booted.

The agent is Debian's. It freezes the file systems itself; the hook is told before and after, and freezes the apps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.vm.guest import AGENT_PORT, Guest, GuestAgent, GuestError, Program
from tests.vm.stage import APP, DATABASE, MOUNTS, Stage, asked, end, frozen, staged, start_broker, vetoing
from tests.vm.workshop import Workshop

HOOK: Final = '#!/bin/sh\nexec appvss hook "$1"\n'
"""What stands in /etc/qemu/fsfreeze-hook in the place of Debian's, which never fails."""
SHORT_HOOK: Final = HOOK.replace('"$1"', '"$@"').replace(
    "exec", '[ "$1" = thaw ] || set -- freeze --hold-limit 2s\nexec'
)
"""With a hold that ends by itself before anybody thaws."""
HOOK_FILE: Final = "/etc/qemu/fsfreeze-hook"
STATE: Final = "/data/appvss"
"""The broker's state is on the disk of the snapshot, which then carries its certificate."""
CONFIGURATION: Final = f"""
state_directory = "{STATE}"

[sources.freebsd]
mode = "off"
"""
LOOK: Final = """
import json, os, sqlite3, sys
path = sys.argv[1]
log = os.path.getsize(path + "-wal") if os.path.exists(path + "-wal") else 0
database = sqlite3.connect(path)
(check,) = database.execute("PRAGMA integrity_check").fetchone()
(last_row,) = database.execute("SELECT max(id) FROM orders").fetchone()
print(json.dumps({"log": log, "check": check, "last_row": last_row}))
"""
"""Looks at a database: the size of the log beside it before it was opened, its integrity, its last row."""


@pytest.fixture(scope="module")
def disk(workshop: Workshop) -> Path:
    """The data disk. After the snapshot it is left as it was then: what comes later goes to another file."""
    return workshop.data("disk")


@pytest.fixture(scope="module")
def guest(workshop: Workshop, disk: Path) -> Iterator[Guest]:
    with workshop.boot("guest", disk) as guest:
        yield guest


@pytest.fixture(scope="module")
def service(guest: Guest) -> Iterator[Program]:
    """The agent."""
    guest.check("mkdir", "-p", "/run/qemu")
    port = guest.port(AGENT_PORT)
    service = guest.start("qemu-ga", "-v", "-m", "virtio-serial", "-p", port, "-t", "/run/qemu", f"-F{HOOK_FILE}")
    yield service
    end(service)


@pytest.fixture(scope="module")
def stage(guest: Guest, service: Program) -> Iterator[Stage]:
    with staged(guest, CONFIGURATION) as stage:
        yield stage


@pytest.fixture
def agent(guest: Guest, stage: Stage) -> Iterator[GuestAgent]:
    """A connection to the agent, which has our hook."""
    set_hook(guest, HOOK)
    with guest.agent() as agent:
        yield agent


def set_hook(guest: Guest, script: str) -> None:
    guest.write(HOOK_FILE, script)
    guest.check("chmod", "755", HOOK_FILE)


def test_a_veto_fails_the_agent_s_freeze_and_leaves_nothing_frozen(
    guest: Guest, stage: Stage, agent: GuestAgent
) -> None:
    mark = stage.mark()
    with vetoing(stage):
        with pytest.raises(GuestError, match="fsfreeze hook has failed with status"):
            agent.command("guest-fsfreeze-freeze")
        assert agent.command("guest-fsfreeze-status") == "thawed"
        assert frozen(guest) == [False, False]
        assert "the nightly job is running" in stage.verdict(after=mark)[1]
        assert agent.command("guest-fsfreeze-thaw") == 0  # of nothing; it runs the hook once more


def test_a_hold_that_has_ended_before_the_agent_s_thaw_fails_it(guest: Guest, stage: Stage, agent: GuestAgent) -> None:
    set_hook(guest, SHORT_HOOK)
    mark = stage.mark()
    agent.command("guest-fsfreeze-freeze")
    assert stage.verdict(after=mark)[1] != "application"
    assert frozen(guest) == [True, True]  # by the agent, which has no limit
    with pytest.raises(GuestError, match="fsfreeze hook has failed with status 10"):
        agent.command("guest-fsfreeze-thaw")
    assert frozen(guest) == [False, False]


def test_a_snapshot_in_the_agent_s_freeze_is_application_consistent(
    workshop: Workshop, guest: Guest, stage: Stage, agent: GuestAgent, disk: Path
) -> None:
    mark = stage.mark()
    assert frozen(guest) == [False, False]
    assert agent.command("guest-fsfreeze-freeze") >= len(MOUNTS)
    assert frozen(guest) == [True, True]
    assert [app["state"] for app in asked(guest, "apps")["apps"] if app["name"] == APP] == ["held"]
    guest.snapshot(workshop.folder / "later.qcow2")
    agent.command("guest-fsfreeze-thaw")
    assert frozen(guest) == [False, False]
    cycle, level = stage.verdict(after=mark)
    assert level == "application"
    (outcome,) = stage.cycle(cycle)["verdict"]["outcomes"]
    guest.close()
    with workshop.boot("restored", disk) as restored:
        assert "recovery complete" not in restored.check("dmesg")  # what ext4 says after a crash
        look = json.loads(restored.check("python3", "-c", LOOK, DATABASE))
        assert look == {"log": 0, "check": "ok", "last_row": int(outcome["evidence"]["last_row"])}
        assert asked(restored, "certificate", "show", STATE)["cycle"] == cycle
        start_broker(restored, CONFIGURATION).line(f"this machine was restored from cycle {cycle}")
