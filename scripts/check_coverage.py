"""Fail unless the pure rooms are covered by their own tests alone, every branch of every line.

usage: python scripts/check_coverage.py

Covered by the whole suite is easily had and says little, so each room's own tests are run once more by themselves.
"""

from __future__ import annotations

import subprocess
import sys

ROOMS = {
    "appvss/model": "tests/model",
    "appvss/cycle": "tests/cycle",
    "appvss/sources/wire": "tests/sources/wire",
}


def main() -> int:
    """Run each pure room's tests with coverage and say what is missing."""
    failed = 0
    for room, tests in ROOMS.items():
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", tests, f"--cov={room}", "--cov-branch"]
        command += ["--cov-report=term-missing:skip-covered", "--cov-fail-under=100"]
        failed += subprocess.run(command, check=False, timeout=600).returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
