"""docs/reference/json.md has every field of the objects of these commands, and no other."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.agent.checking import Checked
from appvss.agent.configuration import AppConfiguration
from appvss.agent.options import AppOptions
from appvss.cli import agent_check, documents, verify, why
from appvss.cli.explanation import explain
from appvss.cli.preflight.finding import ok
from appvss.cli.rehearsal import report
from appvss.model.certificate import examine
from appvss.model.grade import Grade
from appvss.sdk.admin_cycles import rehearsal_of
from appvss.sdk.admin_values import app_of, status_of
from appvss.verify.base import Report
from appvss.verify.evidence import Evidence
from appvss.verify.outside import Verified
from tests.cli.golden_cases import PEERS, details
from tests.cli.test_certificate import certificate
from tests.docs.test_pages import rows, section
from tests.sdk.broker_peer import apps, rehearsal, restored, status

CASES = details()
EXPLAINED = CASES["vetoed"]
VERIFIED = Verified(Report("redis", "7.0", Grade.FS, ()), Evidence({}), timedelta(seconds=1))
REPORT = documents.rehearsal(
    report([rehearsal_of(rehearsal())], [app_of(app) for app in apps()], status_of(status()).sources)
)


def with_restored() -> Mapping[str, object]:
    message = status()
    message.restored.CopyFrom(restored())
    return documents.status(status_of(message))


FIELDS: dict[str, Mapping[str, object]] = {
    "## `history`": {"cycles": []},
    "## `why`": why.document(why.Answer(None, EXPLAINED, explain(EXPLAINED, PEERS), None, "")),
    "## `rehearse`": REPORT,
    "## `doctor`": {"findings": [], "fit": True},
    "## `agent_check`": agent_check.document(()),
    "### checked app": agent_check.app_document(
        Checked(AppConfiguration("orders", AppOptions(), None, {}), findings=())
    ),
    "## `certificate`": {"file": "", **documents.certificate(certificate())},
    "## `examination`": documents.examination(examine(certificate(), None), ""),
    "## `verification`": verify.document("orders-db", Path("/backup"), VERIFIED),
    "### policy value": documents.policy(status_of(status()).policy)[0],
    "### restored": with_restored()["restored"],  # type: ignore[dict-item]  # it is an object
    "### doubt": documents.doubt(explain(EXPLAINED, PEERS).doubts[0]),
    "### rehearsed app": REPORT["apps"][0],  # type: ignore[index]  # it is a list
    "### figures": REPORT["time_to_freeze"],  # type: ignore[dict-item]  # it is an object
    "### fit": REPORT["sources"][0],  # type: ignore[index]  # it is a list
    "### finding": documents.finding(ok("clock", "it is well")),
}


@pytest.mark.parametrize("heading", FIELDS)
def test_every_field_of_every_object_is_documented_and_no_other(heading: str) -> None:
    text = section("reference/json.md", heading)
    assert [row[0] for row in rows(text)] == list(FIELDS[heading])
    assert all(len(row) == 3 and all(row) for row in rows(text))


def test_show_writes_a_cycle_and_what_its_section_adds() -> None:
    added = [row[0] for row in rows(section("reference/json.md", "## `cycle`"))]
    assert list(documents.cycle(EXPLAINED)) == [*documents.summary(EXPLAINED.summary), *added]
