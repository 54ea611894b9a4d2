"""The Hyper-V host on the stand-in bus: one VSS request down the channel, one reply back (facts/linux-hv-vss.md)."""

from __future__ import annotations

import os
import select
import struct
import threading
import time
from typing import Final

DEVICE: Final = "/dev/vmbus_host"
OPERATIONS: Final = {"hot_backup": 2, "dm_info": 3, "bu_complete": 4, "freeze": 5, "thaw": 6, "auto_recover": 7}
NEGOTIATE: Final = "negotiate"
FRAMEWORKS: Final = ((1, 0), (3, 0))
SERVICES: Final = ((5, 0), (6, 0), (7, 0))
"""Versions of VSS that the host offers; the driver takes the first."""

_PIPE: Final = struct.Struct("<II")  # vmbuspipe_hdr
_MESSAGE: Final = struct.Struct("<HHHHHHIBB2x")  # icmsg_hdr
_BODY: Final = struct.Struct("<B7xI")
_NEGOTIATE, _VSS = 0, 5
_FLAGS: Final = 1 | 2  # a transaction, and a request
_LARGEST: Final = 8192
_lock = threading.Lock()
_transactions = 0


def ask(operation: str, timeout: float) -> dict[str, object]:
    """Send one request and wait for its reply.

    Args:
        operation: one of `OPERATIONS`, or `negotiate`.
        timeout: seconds.

    Returns:
        `status` as the host reads it, None without a reply in time; `seconds` until then; `late`, the replies to
        earlier requests that were found before.
    """
    if operation == NEGOTIATE:
        versions = b"".join(struct.pack("<HH", *version) for version in (*FRAMEWORKS, *SERVICES))
        body, kind = struct.pack("<HHI", len(FRAMEWORKS), len(SERVICES), 0) + versions, _NEGOTIATE
    else:
        body, kind = _BODY.pack(OPERATIONS[operation], 0), _VSS
    with _lock:
        return _exchange(kind, body, timeout)


def _exchange(kind: int, body: bytes, timeout: float) -> dict[str, object]:
    global _transactions
    _transactions = (_transactions + 1) % 256
    descriptor = os.open(DEVICE, os.O_RDWR)
    try:
        late = []
        while select.select([descriptor], [], [], 0)[0]:
            late.append(os.read(descriptor, _LARGEST).hex())
        message = _MESSAGE.pack(3, 0, kind, 5, 0, len(body), 0, _transactions, _FLAGS) + body
        began = time.monotonic()
        os.write(descriptor, _PIPE.pack(1, len(message)) + message)
        if not select.select([descriptor], [], [], timeout)[0]:
            return {"status": None, "seconds": time.monotonic() - began, "late": late}
        reply = os.read(descriptor, _LARGEST)
        seconds = time.monotonic() - began
    finally:
        os.close(descriptor)
    *_, status, transaction, flags = _MESSAGE.unpack_from(reply, _PIPE.size)
    if transaction != _transactions:
        raise ValueError(f"the reply is for transaction {transaction}, not {_transactions}")
    body = reply[_PIPE.size + _MESSAGE.size :]
    return {"status": status, "seconds": seconds, "late": late, "flags": flags, "body": body.hex()}
