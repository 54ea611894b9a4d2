"""Values in force and who said so, as a table: of the broker, and of one app."""

from __future__ import annotations

from collections.abc import Iterable

from appvss.cli import render
from appvss.model.policy import PolicyValue


def show_policy(values: Iterable[PolicyValue]) -> None:
    """Write the table. It raises what `render.line` raises."""
    render.table(("KEY", "VALUE", "FROM"), [(value.key, value.value, value.origin) for value in values])
