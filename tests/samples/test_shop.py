"""The shop works as its README says, and leaves nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from samples.shop.stage import why_not
from tests.support.loop_disks import run
from tests.support.running_broker import ROOT

BOUND = 100
README = ROOT / "samples" / "shop" / "README.md"


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_the_shop_shows_what_its_readme_says() -> None:
    before = set(Path("/tmp").glob("appvss-shop-*"))
    command = [sys.executable, "-m", "samples.shop"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BOUND, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stderr == ""
    shown = [
        line for line in README.read_text().splitlines() if re.match(r"    (copy|frozen-alone|host|command) ", line)
    ]
    wanted = [re.sub(r"[1-9]\d*", "N", line.strip()).split() for line in shown]
    lines = [re.sub(r"[1-9]\d*", "N", line.strip()).split() for line in done.stdout.splitlines()]
    begin = lines.index(wanted[0])
    assert lines[begin : begin + len(wanted)] == wanted
    assert set(Path("/tmp").glob("appvss-shop-*")) <= before
    deadline = time.monotonic() + 10
    while "appvss-shop-" in run("losetup", "--list", "--noheadings", "--output", "BACK-FILE"):
        assert time.monotonic() < deadline
        time.sleep(0.02)  # the kernel works on after the unmount
