"""One process, one incarnation, each app once."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from appvss.model.app import AppId
from appvss.model.errors import UsageError
from appvss.sdk import identity

HERE, THERE = Path("/run/a"), Path("/run/b")


def test_the_incarnation_is_of_the_process() -> None:
    first = identity.incarnation()
    assert identity.incarnation() == first
    assert len(first) in range(16, 65)
    assert first.isascii()


def test_an_app_is_served_once_in_each_place() -> None:
    app = AppId("orders-db")
    with ExitStack() as kept:
        kept.enter_context(identity.served(HERE, app))
        kept.enter_context(identity.served(THERE, app))
        kept.enter_context(identity.served(HERE, AppId("orders-db", "eu")))
        with pytest.raises(UsageError, match="serves orders-db already"):
            kept.enter_context(identity.served(HERE, app))
    with identity.served(HERE, app):
        pass
