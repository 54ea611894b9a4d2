"""The `appvss` command: one file per command; render.py turns values into text or JSON."""

from __future__ import annotations

import sys

from appvss.model.errors import ExitCode

_PACKAGES = ("click", "rich")
"""What the extra `cli` brings; the core alone does without."""


def main() -> None:
    """Run the command. Where only the core is installed it says in a sentence what is missing."""
    try:
        from appvss.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        sys.stderr.write(f"appvss: the command needs the package {error.name}, which is not installed\n")
        sys.stderr.write("HINT: Install the command with `pip install 'appvss[cli]'`; the SDK works without it.\n")
        sys.exit(ExitCode.UNAVAILABLE)
    run()
