"""Finding one cycle from what a person has typed: a whole id, or its unique beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from appvss.model.errors import CycleUnknown, UsageError
from appvss.model.names import printable

if TYPE_CHECKING:
    from appvss.sdk.admin import AdminClient
    from appvss.sdk.admin_cycles import CycleDetail

_SHOWN: Final = 4
_ID_LIMIT: Final = 64


def find_cycle(client: AdminClient, word: str) -> CycleDetail:
    """The cycle with this id, or the only one whose id begins so.

    Raises:
        CycleUnknown: there is none.
        UsageError: there are several.
    """
    try:
        if len(word) <= _ID_LIMIT:
            return client.cycle(word)
    except CycleUnknown:
        pass
    found = [summary.cycle for summary in client.cycles() if word and summary.cycle.startswith(word)]
    if not found:
        raise CycleUnknown(
            f"no cycle {printable(word, _ID_LIMIT)!r} is known", "`appvss history` lists the cycles that are known."
        )
    if len(found) > 1:
        named = ", ".join(found[:_SHOWN]) + (" and more" if len(found) > _SHOWN else "")
        raise UsageError(
            f"{len(found)} cycles begin with {printable(word)!r}: {named}", "Write so much of the id that one is left."
        )
    return client.cycle(found[0])
