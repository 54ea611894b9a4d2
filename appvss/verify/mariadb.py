"""What a copy of a MariaDB server is worth.

Before the start: the binary log must end exactly where it did in the hold (it does, to the byte). After the start: the
redo log must reach as far as it did in the hold, the row of the marker must be there, the GTIDs must be equal, and the
first CHECK TABLE of every table must be clean. The marker's row counts most: a copy whose GTIDs are equal may
lack thousands of transactions, for they are those of the binary log (facts/database-quiesce.md section 3).
"""

from __future__ import annotations

from collections.abc import Mapping

from appvss.verify.base import Copy, Report
from appvss.verify.mysql_checks import inspect
from appvss.verify.mysql_server import MARIADB


def verify(copy: Copy, evidence: Mapping[str, str]) -> Report:
    """Look at a copy, start it privately, and look again.

    Args:
        copy: may be changed, and will be: it is recovered.
        evidence: what the adapter gave for the certificate; empty: there is none, and `fs` is the most it can earn.

    Raises:
        VerifierUnavailable: this machine has no such server, or cannot start it on the copy.
    """
    return inspect(copy, evidence, MARIADB, "mariadb")
