"""The shop works as its README says, and leaves nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time

import pytest

from samples.demo.stage import DemoFailed
from samples.shop import volumes
from samples.shop.stage import why_not
from tests.support.loop_disks import run
from tests.support.running_broker import ROOT, short_directory

BOUND = 240
"""Seconds. It takes fifteen, and six times that on a machine that does five other things."""
README = ROOT / "samples" / "shop" / "README.md"


@pytest.mark.timeout(BOUND + 60)
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_the_shop_shows_what_its_readme_says() -> None:
    home = short_directory()  # of its own: another shop may be open on this machine
    home.chmod(0o711)
    command, environment = [sys.executable, "-m", "samples.shop"], {**os.environ, "TMPDIR": str(home)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stderr == ""
    shown = [
        line for line in README.read_text().splitlines() if re.match(r"    (copy|frozen-alone|host|command) ", line)
    ]
    wanted = [re.sub(r"[1-9]\d*", "N", line.strip()).split() for line in shown]
    lines = [re.sub(r"[1-9]\d*", "N", line.strip()).split() for line in done.stdout.splitlines()]
    begin = lines.index(wanted[0])
    assert lines[begin : begin + len(wanted)] == wanted
    assert list(home.iterdir()) == []
    home.rmdir()
    deadline = time.monotonic() + 60
    while str(home) in run("losetup", "--list", "--noheadings", "--output", "BACK-FILE"):
        assert time.monotonic() < deadline
        time.sleep(0.02)  # the kernel works on after the unmount


def test_a_copy_that_lasts_longer_than_the_freeze_is_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "FREEZE_LIMIT", 0.01)
    with pytest.raises(DemoFailed, match="when the file systems were thawed"), volumes.frozen([]):
        wait_for_timers()


def wait_for_timers() -> None:
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(BOUND)
