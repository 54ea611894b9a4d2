"""What the app's own functions give and raise, as the machine takes it."""

from __future__ import annotations

from collections.abc import Mapping

from appvss import contract
from appvss.model.errors import AppError
from appvss.model.names import printable
from appvss.sdk.inputs import Failure


def evidence_of(given: object) -> dict[str, str]:
    """What the app's context yielded, as evidence. What is not a mapping (a lock's True, a connection) is none.

    Raises:
        MessageInvalid: there are more entries than the contract allows.
    """
    if not isinstance(given, Mapping):
        return {}
    return contract.evidence_of({str(key): str(value) for key, value in given.items()})


def failure_of(error: BaseException) -> Failure:
    """Why the app's own code failed, as one printable sentence that is never empty."""
    if isinstance(error, AppError):  # its sentence is meant for people
        return Failure(printable(error.sentence) or "the app gave no reason", error.retryable)
    name = type(error).__name__
    try:
        text = printable(str(error))
    except Exception as broken:  # noqa: BLE001 - an error whose own text fails must still become a veto
        text = f"its text cannot be had: {type(broken).__name__}"
    return Failure(printable(f"{name}: {text}" if text else name))
