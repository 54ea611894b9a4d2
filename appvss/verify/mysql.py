"""What a copy of a MySQL server is worth. As with MariaDB (`mariadb.py`), but for two things.

With the recipe `instance-lock` writes went on until the file-system freeze: then the copy must have at least what was
recorded. And a GTID set is compared as a set: it may be written in more than one way.
"""

from __future__ import annotations

from collections.abc import Mapping

from appvss.verify.base import Copy, Report
from appvss.verify.mysql_checks import inspect
from appvss.verify.mysql_server import MYSQL


def verify(copy: Copy, evidence: Mapping[str, str]) -> Report:
    """Look at a copy, start it privately, and look again.

    Args:
        copy: may be changed, and will be: it is recovered.
        evidence: what the adapter gave for the certificate; empty: there is none, and `fs` is the most it can earn.

    Raises:
        VerifierUnavailable: this machine has no such server, or cannot start it on the copy.
    """
    return inspect(copy, evidence, MYSQL, "mysql")
