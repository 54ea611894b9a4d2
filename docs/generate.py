"""Draw the reference pages that come from the code: `python docs/generate.py`. The tests compare them with the code."""

from __future__ import annotations

import sys
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent / "reference"


def main() -> None:
    """Write every page."""
    sys.path.insert(0, str(DIRECTORY.parent.parent))
    from appvss.agent import configuration_text as agent_text
    from appvss.broker import configuration_text
    from appvss.cli import reference

    (DIRECTORY / "configuration.md").write_text(configuration_text.reference(), encoding="utf-8")
    (DIRECTORY / "agent.md").write_text(agent_text.reference(), encoding="utf-8")
    (DIRECTORY / "commands.md").write_text(reference.reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
