"""docs/state-machine.md is what its script draws from the table now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from appvss.cycle.table import RESTING, TABLE

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "draw_state_machine.py"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_state_machine", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_drawn_from_the_table() -> None:
    script = _script()
    drawn: str = script.page()
    assert script.PAGE.read_text(encoding="utf-8") == drawn, f"run `python {SCRIPT.name}` in docs/"


def test_the_page_shows_every_step_and_every_arrow() -> None:
    drawn: str = _script().page()
    for (phase, input), row in TABLE.items():
        assert f"`{row.step.__name__}`" in drawn
        name = "rest" if phase in RESTING else phase.value
        for target in row.leads_to:
            (arrow,) = [line for line in drawn.splitlines() if line.strip().startswith(f"{name} --> {target}:")]
            assert input.__name__ in arrow
