"""The certificate: its text, its digest, and what it proves with and without the history."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.model import certificate as module
from appvss.model.app import AppId, Registration, Requirement
from appvss.model.certificate import Certificate, examine, issue, read_certificate
from appvss.model.errors import CertificateEdited, CertificateInvalid, CertificateUnmatched, ExitCode
from appvss.model.filesystem import FilesystemOutcome, FilesystemPart
from appvss.model.instant import Instant
from appvss.model.journal import JournalApp, JournalEntry, Stage
from appvss.model.past import PastCycle
from appvss.model.phase import Phase
from appvss.model.policy import PolicyValue
from appvss.model.verdict import APART, AppOutcome, Level, Outcome, Verdict

SECOND = timedelta(seconds=1)
NOW = timedelta(days=20_777, hours=15, microseconds=250)
POLICY = (PolicyValue("requirement", "required", 'apps.policy "orders-*"'),)


def at(seconds: float) -> Instant:
    return Instant(seconds * SECOND)


def quiet(name: str = "orders-db", **evidence: str) -> JournalApp:
    return JournalApp(Registration(AppId(name)), 60 * SECOND, at(5), at(5.25), evidence)


def failed(name: str = "mail", outcome: Outcome = Outcome.VETOED, reason: str = "a backup is running") -> JournalApp:
    registration = Registration(AppId(name, "1"), requirement=Requirement.TOLERATED)
    return JournalApp(registration, 60 * SECOND, at(5), None, {}, outcome, reason)


def entry(*apps: JournalApp, **changes: Any) -> JournalEntry:
    whole = JournalEntry(
        "c1", "freebsd", "hyper-v host", Stage.HELD, at(4), at(6), apps, (), at(19), 60 * SECOND, False
    )
    return replace(whole, **changes)


def issued(entry: JournalEntry, policy: tuple[PolicyValue, ...] = POLICY) -> Certificate:
    return issue(entry, version="0.1.0", boot="b1", host="db1", time=NOW, policy=policy)


def past(certificate: str, *outcomes: tuple[str, Outcome], level: Level = Level.APPLICATION, **rest: Any) -> PastCycle:
    parts = tuple(AppOutcome(AppId(name), outcome, Requirement.REQUIRED, 50) for name, outcome in outcomes)
    verdict = Verdict("c1", level, parts, rest.get("reasons", ()), rest.get("hold", SECOND))
    return PastCycle(rest.get("cycle", "c1"), "freebsd", "host", NOW, SECOND, Phase.COMPLETED, verdict, (), certificate)


def signed(content: dict[str, Any]) -> str:
    """A text whose digest fits, as somebody makes it who knows how."""
    bare = {key: value for key, value in content.items() if key != "digest"}
    canonical = json.dumps(bare, sort_keys=True, separators=(",", ":"))
    return json.dumps({**bare, "digest": f"sha256:{sha256(canonical.encode()).hexdigest()}"})


WHOLE = issued(entry(quiet(lsn="0/16B3748"), quiet("files"), failed()))
CONTENT: dict[str, Any] = json.loads(WHOLE.text())


def test_text_is_as_documented() -> None:
    assert json.loads(issued(entry(quiet(lsn="0/16B3748"), rehearses=True)).text()) == {
        "format": "appvss-certificate",
        "format_version": 1,
        "broker_version": "0.1.0",
        "machine": {"boot": "b1", "host": "db1"},
        "cycle": "c1",
        "source": "freebsd",
        "requester": "hyper-v host",
        "time": "2026-11-20T15:00:00.000250Z",
        "written_after_microseconds": 2_000_000,
        "stage": "held",
        "rehearses": True,
        "limits": {"answer_by_microseconds": 15_000_000, "hold_limit_microseconds": 60_000_000},
        "apps": [
            {
                "name": "orders-db",
                "instance": "",
                "requirement": "required",
                "order": 50,
                "is_quiet": True,
                "outcome": None,
                "reason": "",
                "time_to_freeze_microseconds": 250_000,
                "hold_limit_microseconds": 60_000_000,
                "evidence": {"lsn": "0/16B3748"},
            }
        ],
        "policy": [{"key": "requirement", "value": "required", "origin": 'apps.policy "orders-*"'}],
        "left_out": [],
        "digest": "sha256:71d99dc6d603ebb1dc318f515f7b069e27c265f34a5f3312180dcb63270dd98a",
    }


def test_page_has_every_member_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "certificate.md").read_text(encoding="utf-8")
    whole, _, app = page.partition("## The text")[2].partition("### app")
    assert set(re.findall(r"^\| `([a-z_]+)`", whole, re.MULTILINE)) == set(CONTENT)
    assert set(re.findall(r"^\| `([a-z_]+)`", app, re.MULTILINE)) == set(CONTENT["apps"][0])


def test_digest_is_what_the_documented_recipe_gives() -> None:
    assert json.loads(signed(CONTENT)) == CONTENT


def test_text_has_a_line_for_each_app_and_each_value_of_the_policy() -> None:
    lines = WHOLE.text().splitlines()
    assert [line for line in lines if line.startswith("  ")] == [
        line for line in lines if '"name"' in line or '"origin"' in line
    ]
    assert WHOLE.text().isascii()
    assert WHOLE.text().endswith("}\n")
    assert issued(entry(), ()).text().count('": []') == 3


texts = st.text(max_size=30)
journal_apps = st.builds(
    JournalApp,
    registration=st.builds(
        Registration,
        app=st.builds(AppId, st.sampled_from(["a", "b-1"]), st.sampled_from(["", "i"])),
        order=st.integers(),
        requirement=st.sampled_from(Requirement),
        set_aside=texts,
    ),
    hold_limit=st.timedeltas(),
    asked_at=st.none() | st.timedeltas(max_value=timedelta(0)).map(Instant),
    acked_at=st.none() | st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=1)).map(Instant),
    evidence=st.dictionaries(texts, texts, max_size=3),
    outcome=st.none() | st.sampled_from(Outcome),
    reason=texts,
)


@given(st.lists(journal_apps, max_size=4), texts, st.sampled_from(Stage), st.booleans())
def test_every_certificate_is_read_as_it_was_issued_however_it_is_spaced(
    apps: list[JournalApp], text: str, stage: Stage, rehearses: bool
) -> None:
    one = entry(*apps, cycle=text, source=text, requester=text, stage=stage, rehearses=rehearses)
    written = issue(one, version=text, boot=text, host=text, time=NOW, policy=(PolicyValue(text, text, text),))
    assert read_certificate(written.text()) == written
    assert read_certificate(json.dumps(json.loads(written.text()), indent=3)) == written


def test_what_an_app_says_can_write_nothing_to_a_terminal() -> None:
    one = issued(entry(failed(reason="\x1b[2Jgone\nnext"), requester="\u202eevil"))
    assert (one.apps[0].reason, one.requester) == ("?[2Jgone next", "?evil")


def test_app_that_is_set_aside_was_not_asked_and_says_why() -> None:
    (app,) = issued(entry(JournalApp(Registration(AppId("a"), set_aside="set aside by policy")))).apps
    assert (app.is_quiet, app.outcome, app.reason, app.time_to_freeze) == (False, None, "set aside by policy", None)


def test_app_that_acked_and_was_lost_since_is_not_quiet() -> None:
    lost = replace(quiet(), outcome=Outcome.HOLD_LOST, reason="it went away")
    (app,) = issued(entry(lost)).apps
    assert (app.is_quiet, app.outcome, app.time_to_freeze) == (False, Outcome.HOLD_LOST, SECOND / 4)


def test_ack_whose_question_is_not_known_has_no_time() -> None:
    (app,) = issued(entry(replace(quiet(), asked_at=None))).apps
    assert (app.is_quiet, app.time_to_freeze) == (True, None)


@pytest.mark.parametrize(
    ("lacking", "left_out", "apps", "policy"),
    [
        (0, (), {"e": "v" * 200}, 1),
        (1, ("evidence",), {}, 1),
        (300, ("evidence", "reasons", "policy"), {}, 0),
    ],
)
def test_what_has_no_room_is_left_out_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, lacking: int, left_out: tuple[str, ...], apps: dict[str, str], policy: int
) -> None:
    cycle = entry(quiet(e="v" * 200), failed(reason="r" * 400))
    monkeypatch.setattr(module, "SIZE_LIMIT", len(issued(cycle).text()) - lacking)
    one = issued(cycle)
    assert (one.left_out, one.apps[0].evidence, len(one.policy)) == (left_out, apps, policy)
    assert bool(one.apps[1].reason) is ("reasons" not in left_out)
    if left_out:
        assert f"For want of room the certificate lacks: {', '.join(left_out)}." in examine(one, None).sentences


def test_thousands_of_apps_need_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Certificate, "text", None)
    assert len(issued(entry(*(quiet(f"app-{number}", lsn="0/1") for number in range(2000)))).apps) == 2000


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content = json.loads(WHOLE.text())
    change(content)
    return content  # type: ignore[no-any-return] # it is JSON


EDITS: list[Callable[[dict[str, Any]], object]] = [
    lambda it: it["apps"][2].update(outcome=None, is_quiet=True),
    lambda it: it["apps"].pop(),
    lambda it: it.update(cycle="c2"),
    lambda it: it.update(time="2026-11-21T15:00:00.000250Z"),
    lambda it: it["apps"][0]["evidence"].update(lsn="0/16B3749"),
    lambda it: it.update(more=1),
    lambda it: it.pop("left_out"),
    lambda it: it.update(digest="sha256:0"),
]


@pytest.mark.parametrize("edit", EDITS)
def test_any_edit_shows(edit: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(CertificateEdited, match="was changed after it was written") as caught:
        read_certificate(json.dumps(changed(edit)))
    assert caught.value.exit_code is ExitCode.UNPROVEN
    assert "appvss show CYCLE" in caught.value.hint


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda it: it.update(format="other"), "is not of the format 'appvss-certificate'"),
        (lambda it: it.pop("format"), "has no member 'format'"),
        (lambda it: it.update(format_version=2), "has the format version 2, and this AppVSS knows 1"),
        (lambda it: it.update(format_version=True), "'format_version' that is not a whole number"),
        (lambda it: it.update(more=1), "has the unknown member 'more'"),
        (lambda it: it["limits"].update(more=1), "has the unknown member 'limits.more'"),
        (lambda it: it["apps"][1].update(more=1), r"has the unknown member 'apps\[1\].more'"),
        (lambda it: it["apps"][1].pop("outcome"), r"has no member 'apps\[1\].outcome'"),
        (lambda it: it["apps"][0].update(outcome="fine"), "that is not one of held, vetoed"),
        (lambda it: it["apps"][0].update(name="no spaces"), "names an app that cannot be"),
        (lambda it: it["apps"][0].update(is_quiet=1), "that is not true or false"),
        (lambda it: it["apps"][0].update(order=1.5), "that is not a whole number"),
        (lambda it: it["apps"][0].update(evidence=[]), "that is not an object"),
        (lambda it: it["apps"][0].update(evidence={"a": 1}), "that is not a printable text"),
        (lambda it: it["apps"][0].update(evidence={"\x1b": "a"}), "that is not a printable text"),
        (lambda it: it["apps"][0].update(reason="r" * 2001), "of at most 2000 characters"),
        (lambda it: it.update(apps={}), "'apps' that is not a list"),
        (lambda it: it.update(apps=[1]), r"'apps\[0\]' that is not an object"),
        (lambda it: it.update(machine=None), "'machine' that is not an object"),
        (lambda it: it.update(cycle=1), "'cycle' that is not a printable text"),
        (lambda it: it.update(cycle="\ud800"), "'cycle' that is not a printable text"),
        (lambda it: it.update(left_out=[1]), "'left_out' that is not a printable text"),
        (lambda it: it.update(written_after_microseconds=10**30), "that is not a length of time"),
        (lambda it: it.update(time="yesterday"), "'time' that is not a time in UTC"),
        (lambda it: it.update(time="2026-11-20T15:00:00"), "'time' that is not a time in UTC"),
        (lambda it: it.update(time="2026-11-20T15:00:00Z"), "'time' that is not a time in UTC"),
        (lambda it: it.update(time="0001-01-01T00:00:00.000000+23:59"), "'time' that is not a time in UTC"),
    ],
)
def test_content_that_cannot_be_is_refused_also_with_a_digest_that_fits(
    edit: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    with pytest.raises(CertificateInvalid, match=sentence) as caught:
        read_certificate(signed(changed(edit)))
    assert caught.value.exit_code is ExitCode.NOT_FOUND
    assert "certificate.json" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not JSON"),
        ("nonsense\x1b", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "has no member 'format'"),
        ('{"format": NaN}', "has the number NaN"),
        ('{"format": "a", "format": "b"}', "names a member twice"),
        ('{"a": {"b": 1, "b": 1}}', "names a member twice"),
        ("[" * 200_000, "is nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "is not JSON"),
        (signed(CONTENT).replace('"digest"', '"digits"'), "no member 'digest'"),
        (" " * (module.SIZE_LIMIT + 1), "characters, over"),
    ],
)
def test_text_that_is_no_certificate_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(CertificateInvalid, match=sentence):
        read_certificate(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(CONTENT)) | st.text(), inner),
    max_leaves=8,
)


@given(st.sampled_from([(), ("apps", 0), ("limits",), ("machine",), ("policy", 0)]), json_values, st.data())
def test_any_json_anywhere_is_read_or_refused_by_name(place: tuple[Any, ...], value: Any, data: st.DataObject) -> None:
    content = json.loads(WHOLE.text())
    table = content
    for step in place:
        table = table[step]
    table[data.draw(st.sampled_from(sorted(table)))] = value
    with suppress(CertificateInvalid):
        read_certificate(signed(content))
    with suppress(CertificateInvalid):
        read_certificate(json.dumps(value))


def test_alone_it_says_who_was_quiet_and_that_the_rest_is_not_known() -> None:
    found = examine(WHOLE, None)
    assert (found.cycle, found.level, found.is_proven) == ("c1", None, False)
    assert found.sentences == (
        "At 2026-11-20T15:00:00.000250Z, in cycle c1 for hyper-v host, 2 apps were quiet: "
        "orders-db (lsn=0/16B3748), files.",
        "Not quiet: mail[1] (vetoed: a backup is running).",
        "Whether they stayed so until the snapshot and the thaw is not known without the history.",
        "A disk carries the certificate from the last ack until shortly after the thaw: by itself it does not prove "
        "that an image was made within the hold.",
        "The digest shows that the certificate was not changed after it was written; it is no signature: whoever may "
        "write as root can make another one.",
    )


def test_one_app_or_none() -> None:
    assert examine(issued(entry(quiet())), None).sentences[0].endswith("host, one app was quiet: orders-db.")
    assert examine(issued(entry()), None).sentences[0].endswith("host, no app was quiet.")
    unasked = JournalApp(Registration(AppId("a")))
    assert examine(issued(entry(unasked)), None).sentences[1] == "Not quiet: a (not asked)."
    many = examine(issued(entry(*(quiet(f"app-{number}") for number in range(25)))), None).sentences[0]
    assert many.endswith("app-18, app-19 and 5 more.")


def test_rehearsal_is_said() -> None:
    found = examine(issued(entry(quiet(), rehearses=True)), None)
    assert "It was a rehearsal: no file system was frozen, and no snapshot was taken." in found.sentences


HELD = (("orders-db", Outcome.HELD), ("files", Outcome.HELD))


def test_whom_the_freeze_did_not_concern_is_not_counted_among_those_that_held() -> None:
    ended = past(WHOLE.text(), *HELD)
    far = AppOutcome(AppId("mail"), Outcome.SKIPPED, Requirement.REQUIRED, 50, APART)
    verdict = replace(ended.verdict, outcomes=(*ended.verdict.outcomes, far))
    found = examine(WHOLE, replace(ended, verdict=verdict))
    assert "Every required app that the freeze concerned held, unbroken, from its ack to the thaw." in found.sentences


def test_with_the_history_it_proves_the_verdict() -> None:
    found = examine(WHOLE, past(WHOLE.text(), *HELD, reasons=("mail (tolerated) vetoed: a backup is running",)))
    assert (found.cycle, found.level, found.is_proven) == ("c1", Level.APPLICATION, True)
    assert found.sentences[2:5] == (
        "The history completes it: the verdict is application, after a hold of 1.0s.",
        "Every required app held, unbroken, from its ack to the thaw.",
        "mail (tolerated) vetoed: a backup is running.",
    )
    assert not any("not known" in sentence for sentence in found.sentences)


def test_hold_that_was_lost_after_the_certificate_is_what_counts() -> None:
    lost = (("orders-db", Outcome.HOLD_LOST), ("files", Outcome.HELD))
    found = examine(WHOLE, past(WHOLE.text(), *lost, level=Level.FAILED, reasons=("it wrote.",), hold=None))
    assert (found.level, found.is_proven) == (Level.FAILED, True)
    assert found.sentences[2:4] == ("The history completes it: the verdict is failed.", "it wrote.")


def test_history_says_which_file_systems_stood_still() -> None:
    record = past(WHOLE.text(), *HELD)
    parts = (
        FilesystemPart("/srv", "8:1", "xfs", FilesystemOutcome.HELD),
        FilesystemPart("/boot", "8:2", "vfat", FilesystemOutcome.UNFREEZABLE, "it has no freeze"),
        FilesystemPart("/home", "8:3", "xfs", FilesystemOutcome.SKIPPED),
    )
    found = examine(WHOLE, replace(record, verdict=replace(record.verdict, filesystems=parts)))
    assert "File systems that stood still until the thaw: /srv." in found.sentences
    assert "File systems that did not: /boot (unfreezable: it has no freeze)." in found.sentences
    assert not any(sentence.startswith("File systems") for sentence in examine(WHOLE, record).sentences)


def test_history_without_the_certificate_proves_nothing() -> None:
    found = examine(WHOLE, past("", *HELD))
    assert (found.level, found.is_proven) == (None, False)
    assert found.sentences[2] == (
        "The history has this cycle with the verdict application, but without its certificate: that the two belong "
        "together is not proven."
    )


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (past(WHOLE.text(), *HELD, cycle="c2"), "is of cycle c1, the history's record of c2"),
        (past(issued(entry(quiet())).text(), *HELD), "has another certificate of cycle c1"),
        (past(WHOLE.text().replace("db1", "db2"), *HELD), "is no use: the certificate was changed"),
        (past("nonsense", *HELD), "is no use: the certificate is not JSON"),
        (past(WHOLE.text(), *HELD, ("mail", Outcome.HELD)), "disagree on mail in cycle c1"),
        (past(WHOLE.text(), HELD[0]), "disagree on files in cycle c1"),
    ],
)
def test_pair_that_does_not_belong_together_is_refused(record: PastCycle, sentence: str) -> None:
    with pytest.raises(CertificateUnmatched, match=sentence) as caught:
        examine(WHOLE, record)
    assert caught.value.exit_code is ExitCode.UNPROVEN
    assert "do not rely on this pair" in caught.value.hint
