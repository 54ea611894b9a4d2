"""What the cycle asks of apps, as bytes for their streams, encoded once for all apps that are asked the same."""

from __future__ import annotations

from typing import Final

from appvss import contract
from appvss.cycle.effects import AskAbort, AskFreeze, AskPrepare, AskThaw, TellFilesystemFreeze
from appvss.v1 import app_pb2

Ask = AskPrepare | AskFreeze | TellFilesystemFreeze | AskThaw | AskAbort
CACHE_LIMIT: Final = 32
"""Different messages that are remembered: more than any cycle has; a full cache is emptied."""


class Encoder:
    """Encodes `AttachResponse` messages and remembers the last ones: a thousand apps are mostly asked the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], bytes] = {}

    def encode(self, effect: Ask) -> bytes:
        """The message for `effect`, without regard to which app it goes to."""
        if isinstance(effect, AskFreeze):
            key: tuple[object, ...] = (AskFreeze, effect.cycle, effect.requester, effect.budget, effect.hold_limit)
        elif isinstance(effect, AskAbort):
            key = (AskAbort, effect.cycle, effect.reason)
        elif isinstance(effect, AskPrepare):
            key = (AskPrepare, effect.cycle, effect.requester, effect.budget)
        else:
            key = (type(effect), effect.cycle)
        data = self._known.get(key)
        if data is None:
            if len(self._known) >= CACHE_LIMIT:
                self._known.clear()
            data = self._known[key] = _message(effect).SerializeToString()
        return data


def _message(effect: Ask) -> app_pb2.AttachResponse:
    match effect:
        case AskPrepare():
            prepare = app_pb2.Prepare(cycle=effect.cycle, requester=effect.requester)
            prepare.budget.CopyFrom(contract.duration_message(effect.budget))
            return app_pb2.AttachResponse(prepare=prepare)
        case AskFreeze():
            freeze = app_pb2.Freeze(cycle=effect.cycle, requester=effect.requester)
            freeze.budget.CopyFrom(contract.duration_message(effect.budget))
            freeze.hold_limit.CopyFrom(contract.duration_message(effect.hold_limit))
            return app_pb2.AttachResponse(freeze=freeze)
        case TellFilesystemFreeze():
            return app_pb2.AttachResponse(filesystem_freeze=app_pb2.FilesystemFreeze(cycle=effect.cycle))
        case AskThaw():
            return app_pb2.AttachResponse(thaw=app_pb2.Thaw(cycle=effect.cycle))
        case AskAbort():
            return app_pb2.AttachResponse(abort=app_pb2.Abort(cycle=effect.cycle, reason=effect.reason))
