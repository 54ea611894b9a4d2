"""The kit that checks an app without a broker: `FakeBroker` on an event loop, `BlockingFakeBroker` without one.

It needs no test framework, and is the reference for app libraries in other languages: it takes app.proto literally.
"""

from appvss.model.app import HoldClaim
from appvss.sdk.testing.blocking import BlockingFakeApp, BlockingFakeBroker
from appvss.sdk.testing.core import TurnedAway
from appvss.sdk.testing.fake_broker import FakeApp, FakeBroker
from appvss.sdk.testing.ledger import Refusal
from appvss.sdk.testing.results import FreezeResult, PrepareResult, ThawResult

__all__ = [
    "BlockingFakeApp",
    "BlockingFakeBroker",
    "FakeApp",
    "FakeBroker",
    "FreezeResult",
    "HoldClaim",
    "PrepareResult",
    "Refusal",
    "ThawResult",
    "TurnedAway",
]
