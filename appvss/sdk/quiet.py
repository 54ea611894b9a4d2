"""gRPC, imported so that its core writes nothing to the host program's standard error.

The core logs there at level INFO by default ("Got goaway", at every restart of the broker), and reads `GRPC_VERBOSITY`
once, while it is imported (measured with grpcio 1.85). A host that sets it, or imports grpc first, has chosen.
"""

from __future__ import annotations

import os
import sys

_VARIABLE = "GRPC_VERBOSITY"
_chosen = _VARIABLE in os.environ or "grpc" in sys.modules
if not _chosen:
    os.environ[_VARIABLE] = "NONE"
try:
    import grpc
    import grpc.aio
finally:
    if not _chosen:
        del os.environ[_VARIABLE]

__all__ = ["grpc"]
