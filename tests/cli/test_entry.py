"""The entry point, where only the core is installed."""

from __future__ import annotations

import subprocess
import sys

from appvss.model.errors import ExitCode

HIDING = """
import sys
sys.modules["click"] = None  # as if it were not installed
from appvss.cli import main
main()
"""


def test_without_the_extra_one_sentence_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", HIDING], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == ExitCode.UNAVAILABLE
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "appvss: the command needs the package click, which is not installed",
        "HINT: Install the command with `pip install 'appvss[cli]'`; the SDK works without it.",
    ]
