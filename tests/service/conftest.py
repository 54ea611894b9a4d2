"""What the tests of a service share."""

from __future__ import annotations

from tests.broker.conftest import directory

__all__ = ["directory"]
