"""AppVSS: application-consistent snapshots. What an application imports is here and nowhere else.

    @asynccontextmanager
    async def quiesce(freeze: appvss.Freeze):
        async with database.write_lock():
            yield {"position": database.position()}

    await appvss.serve("orders-db", quiesce)

`appvss.serve_in_thread` does the same for programs without an event loop, `appvss.sdk.testing` checks an app without a
broker, docs/sdk.md is the way in.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appvss.model.errors import AppvssError, FreezeEnded, HoldLost, NameInvalid, Veto
    from appvss.sdk.asynchronous import serve
    from appvss.sdk.freeze import Freeze, Prepare
    from appvss.sdk.threads import serve_in_thread

__all__ = [
    "serve",
    "serve_in_thread",
    "Freeze",
    "Prepare",
    "Veto",
    "HoldLost",
    "FreezeEnded",
    "AppvssError",
    "NameInvalid",
]

# Loaded when first used: the broker's guardian and the command line import this package too, and want no gRPC.
_HOMES = {
    "serve": "appvss.sdk.asynchronous",
    "serve_in_thread": "appvss.sdk.threads",
    "Freeze": "appvss.sdk.freeze",
    "Prepare": "appvss.sdk.freeze",
    "Veto": "appvss.model.errors",
    "HoldLost": "appvss.model.errors",
    "FreezeEnded": "appvss.model.errors",
    "AppvssError": "appvss.model.errors",
    "NameInvalid": "appvss.model.errors",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
