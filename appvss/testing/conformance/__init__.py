"""The kit that plays a host and a broker with all their moods against anybody's app, as a process of its own.

    from appvss.testing.conformance import CASES, check

    report = check(["python", "my_app.py"])
    assert report.fit, report

It needs no test framework and neither click nor rich. What a case expects is `proto/appvss/v1/app.proto`, taken
literally; docs/check-app.md lists the cases.
"""

from appvss.testing.conformance.case import Case, Result, Status
from appvss.testing.conformance.cases import CASES
from appvss.testing.conformance.report import Report
from appvss.testing.conformance.subject import Subject
from appvss.testing.conformance.trial import Trial, check

__all__ = ["CASES", "Case", "Report", "Result", "Status", "Subject", "Trial", "check"]
