"""The certificate: what was known of a cycle before its snapshot, as a text that the snapshot itself carries.

It is one JSON object (docs/reference/certificate.md) with a SHA-256 digest over everything else in it. The digest shows
that the text was changed by a hand or a disk. It is no signature: whoever may write as root can make another one that
fits. What the certificate cannot say, that the apps stayed quiet until the thaw, stands in the history: `examine` puts
the two together and never claims more than was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final

from appvss.model.app import AppId, Requirement
from appvss.model.certificate_text import TEXT_LIMIT, Table, certificate_table, invalid, microseconds, rfc3339, safe
from appvss.model.duration import format_duration
from appvss.model.errors import CertificateEdited, CertificateError, CertificateUnmatched
from appvss.model.filesystem import FilesystemOutcome, FilesystemPart
from appvss.model.journal import JournalApp, JournalEntry, Stage
from appvss.model.past import PastCycle
from appvss.model.policy import PolicyValue
from appvss.model.verdict import Level, Outcome

FORMAT: Final = "appvss-certificate"
"""What the text calls itself."""
FORMAT_VERSION: Final = 1
"""The one version that this code writes and reads. Any change of the fields makes another."""
SIZE_LIMIT: Final = 8 * 1024 * 1024
"""Longest text, in characters, which are as many bytes: it is ASCII."""

_ESCAPED: Final = 12
"""Characters of JSON for one of a text, at most: a pair of surrogates."""
_APP_FRAME: Final = 100
"""Characters for what is around an app's texts, in twelfths rounded up."""
_FRAME: Final = 10 * TEXT_LIMIT
_NAMED: Final = 20
"""How many apps one sentence names."""
_NO_SIGNATURE: Final = (
    "The digest shows that the certificate was not changed after it was written; it is no signature: whoever may write "
    "as root can make another one."
)
_NOT_THE_IMAGE: Final = (
    "A disk carries the certificate from the last ack until shortly after the thaw: by itself it does not prove that "
    "an image was made within the hold."
)


@dataclass(frozen=True, slots=True)
class CertifiedApp:
    """One app's part in the cycle, up to the moment of the certificate."""

    app: AppId
    requirement: Requirement
    order: int
    is_quiet: bool
    """Whether it had acked and nothing had gone wrong with it since."""
    hold_limit: timedelta
    """How long it was granted to stay quiet; zero: it had not been asked."""
    outcome: Outcome | None = None
    """Decided already; None: it was good so far, or had not been asked."""
    reason: str = ""
    """Why, when there is an outcome, or why it was not asked."""
    time_to_freeze: timedelta | None = None
    """From the question to the ack, by the broker's clock; None: there was no ack."""
    evidence: Mapping[str, str] = field(default_factory=dict)
    """What the app gave with its ack, such as a log position."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The part that was written before the snapshot. All its texts are printable and on one line."""

    cycle: str
    source: str
    requester: str
    time: timedelta
    """When the last app was quiet and this was written, since 1970-01-01 UTC, by the wall clock."""
    version: str
    """Of the broker that wrote it."""
    boot: str
    """The boot of the machine."""
    host: str
    """Its name."""
    stage: Stage
    written_after: timedelta
    """From the request to this, by the monotonic clock."""
    answer_by: timedelta
    """From the request to the latest answer."""
    hold_limit: timedelta
    """How long the hold could last at most, from the answer on."""
    apps: tuple[CertifiedApp, ...]
    """In the order of the freeze."""
    policy: tuple[PolicyValue, ...] = ()
    rehearses: bool = False
    left_out: tuple[str, ...] = ()
    """What had no room within `SIZE_LIMIT`: `evidence`, `reasons`, `policy`. Only thousands of apps come so far."""

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hexadecimal digits, over everything in the certificate but the digest."""
        return _digest(self._content())

    def text(self) -> str:
        """The certificate as it is written to disk: JSON in ASCII, a line for each app, with a newline at its end."""
        content = self._content()
        content["digest"] = _digest(content)
        members = [f' "{key}": {_member(content[key])}' for key in sorted(content)]
        return "{\n" + ",\n".join(members) + "\n}\n"

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "broker_version": self.version,
            "machine": {"boot": self.boot, "host": self.host},
            "cycle": self.cycle,
            "source": self.source,
            "requester": self.requester,
            "time": rfc3339(self.time),
            "written_after_microseconds": microseconds(self.written_after),
            "stage": self.stage.value,
            "rehearses": self.rehearses,
            "limits": {
                "answer_by_microseconds": microseconds(self.answer_by),
                "hold_limit_microseconds": microseconds(self.hold_limit),
            },
            "apps": [_app_content(app) for app in self.apps],
            "policy": [{"key": one.key, "value": one.value, "origin": one.origin} for one in self.policy],
            "left_out": list(self.left_out),
        }


@dataclass(frozen=True, slots=True)
class Examination:
    """What a certificate and, where it is there, the history's record of its cycle prove."""

    cycle: str
    level: Level | None
    """The verdict of the cycle; None: not known, since the history is missing."""
    is_proven: bool
    """Whether the history's record belongs to this very certificate, so that `level` is the whole truth on record. It
    says nothing about how good that level is."""
    sentences: tuple[str, ...]
    """The same in words, for people. Each is printable and ends with a full stop."""


def issue(
    entry: JournalEntry, *, version: str, boot: str, host: str, time: timedelta, policy: tuple[PolicyValue, ...]
) -> Certificate:
    """The certificate of the running cycle.

    Args:
        entry: the cycle as the journal has it, once its last app has acked.
        version: the broker's.
        boot: identity of this boot.
        host: the machine's name.
        time: what the wall clock showed at `entry.written`, since 1970-01-01 UTC.
        policy: the values in force.
    """
    whole = Certificate(
        cycle=safe(entry.cycle),
        source=safe(entry.source),
        requester=safe(entry.requester),
        time=time,
        version=safe(version),
        boot=safe(boot),
        host=safe(host),
        stage=entry.stage,
        written_after=entry.written - entry.began,
        answer_by=entry.answer_by - entry.began,
        hold_limit=entry.hold_limit,
        apps=tuple(_certified(app) for app in entry.apps),
        policy=tuple(PolicyValue(safe(one.key), safe(one.value), safe(one.origin)) for one in policy),
        rehearses=entry.rehearses,
    )
    return _fitting(whole)


def read_certificate(text: str) -> Certificate:
    """The certificate in `text`, which may be spaced in any way.

    Raises:
        CertificateInvalid: it is no certificate, or not one of a version that this code knows.
        CertificateEdited: its content does not match its digest.
    """
    if len(text) > SIZE_LIMIT:
        raise invalid(f"has {len(text)} characters, over {SIZE_LIMIT}")
    try:
        table = certificate_table(text)
        expected = _digest({key: value for key, value in table.whole.items() if key != "digest"})
    except RecursionError as error:
        raise invalid("is nested too deeply") from error
    if table.text("format") != FORMAT:
        raise invalid(f"is not of the format {FORMAT!r}")
    if (found := table.number("format_version")) != FORMAT_VERSION:
        raise invalid(f"has the format version {found}, and this AppVSS knows {FORMAT_VERSION}")
    if (written := table.text("digest")) != expected:
        raise CertificateEdited(
            f"the certificate was changed after it was written: its digest is {written}, its content's {expected}",
            "Do not rely on it. The history keeps the text as it was written: `appvss show CYCLE`.",
        )
    return _read(table)


def examine(certificate: Certificate, past: PastCycle | None) -> Examination:
    """What `certificate` proves, alone or together with the history's record of its cycle.

    Args:
        certificate: as read from an image.
        past: the record, with its own copy of the certificate; None: there is none at hand.

    Raises:
        CertificateUnmatched: the record is of another cycle, has another certificate, or contradicts this one.
    """
    if past is None:
        return _unproven(
            certificate, "Whether they stayed so until the snapshot and the thaw is not known without the history."
        )
    if past.cycle != certificate.cycle:
        raise _unmatched(f"the certificate is of cycle {certificate.cycle}, the history's record of {safe(past.cycle)}")
    if not past.certificate:
        return _unproven(
            certificate,
            f"The history has this cycle with the verdict {past.verdict.level}, but without its certificate: "
            "that the two belong together is not proven.",
        )
    _match(certificate, past)
    sentences = (*_told(certificate), *_ended(past), _NOT_THE_IMAGE, _NO_SIGNATURE)
    return Examination(certificate.cycle, past.verdict.level, True, sentences)


def _unproven(certificate: Certificate, why: str) -> Examination:
    sentences = (*_told(certificate), why, _NOT_THE_IMAGE, _NO_SIGNATURE)
    return Examination(certificate.cycle, level=None, is_proven=False, sentences=sentences)


def _certified(app: JournalApp) -> CertifiedApp:
    acked = app.acked_at is not None and app.outcome in (None, Outcome.HELD)
    took = app.acked_at - app.asked_at if app.acked_at is not None and app.asked_at is not None else None
    return CertifiedApp(
        app=app.registration.app,
        requirement=app.registration.requirement,
        order=app.registration.order,
        is_quiet=acked,
        hold_limit=app.hold_limit,
        outcome=app.outcome,
        reason=safe(app.reason or app.registration.set_aside),
        time_to_freeze=took,
        evidence={safe(key): safe(value) for key, value in app.evidence.items()},
    )


def _fitting(whole: Certificate) -> Certificate:
    """`whole`, or as much of it as has room. What is left out is said in it: half a list would look like a whole."""
    if _size_at_most(whole) <= SIZE_LIMIT or len(whole.text()) <= SIZE_LIMIT:
        return whole
    fitting = replace(whole, apps=tuple(replace(app, evidence={}) for app in whole.apps), left_out=("evidence",))
    if len(fitting.text()) > SIZE_LIMIT:
        bare = tuple(replace(app, reason="") for app in fitting.apps)
        fitting = replace(fitting, apps=bare, policy=(), left_out=("evidence", "reasons", "policy"))
    return fitting


def _size_at_most(certificate: Certificate) -> int:
    """A bound for the length of the text that is quickly found: apps wait for it."""
    apps = sum(
        len(app.app.name)
        + len(app.app.instance)
        + len(app.reason)
        + sum(map(len, app.evidence))
        + sum(map(len, app.evidence.values()))
        + _APP_FRAME
        + len(app.evidence)
        for app in certificate.apps
    )
    policy = sum(len(one.key) + len(one.value) + len(one.origin) + _APP_FRAME for one in certificate.policy)
    return _ESCAPED * (apps + policy + _FRAME)


def _app_content(app: CertifiedApp) -> dict[str, Any]:
    return {
        "name": app.app.name,
        "instance": app.app.instance,
        "requirement": app.requirement.value,
        "order": app.order,
        "is_quiet": app.is_quiet,
        "outcome": app.outcome.value if app.outcome is not None else None,
        "reason": app.reason,
        "time_to_freeze_microseconds": microseconds(app.time_to_freeze) if app.time_to_freeze is not None else None,
        "hold_limit_microseconds": microseconds(app.hold_limit),
        "evidence": dict(app.evidence),
    }


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return f"sha256:{sha256(canonical.encode('ascii')).hexdigest()}"


def _member(value: Any) -> str:
    """JSON for one member. Lists of objects have a line for each; the C encoder writes the rest, since apps wait."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"  {json.dumps(one, sort_keys=True)}" for one in value) + "\n ]"
    return json.dumps(value, sort_keys=True)


def _read(table: Table) -> Certificate:
    with table.table("machine") as machine:
        boot, host = machine.text("boot"), machine.text("host")
    with table.table("limits") as limits:
        answer_by, hold_limit = limits.length("answer_by_microseconds"), limits.length("hold_limit_microseconds")
    certificate = Certificate(
        cycle=table.text("cycle"),
        source=table.text("source"),
        requester=table.text("requester"),
        time=table.time("time"),
        version=table.text("broker_version"),
        boot=boot,
        host=host,
        stage=table.word("stage", Stage),
        written_after=table.length("written_after_microseconds"),
        answer_by=answer_by,
        hold_limit=hold_limit,
        apps=tuple(_read_app(one) for one in table.tables("apps")),
        policy=tuple(_read_policy(one) for one in table.tables("policy")),
        rehearses=table.flag("rehearses"),
        left_out=table.texts("left_out"),
    )
    table.end()
    return certificate


def _read_app(table: Table) -> CertifiedApp:
    with table:
        return CertifiedApp(
            app=table.app(),
            requirement=table.word("requirement", Requirement),
            order=table.number("order"),
            is_quiet=table.flag("is_quiet"),
            hold_limit=table.length("hold_limit_microseconds"),
            outcome=table.word("outcome", Outcome) if table.has("outcome") else None,
            reason=table.text("reason"),
            time_to_freeze=table.length("time_to_freeze_microseconds")
            if table.has("time_to_freeze_microseconds")
            else None,
            evidence=table.mapping("evidence"),
        )


def _read_policy(table: Table) -> PolicyValue:
    with table:
        return PolicyValue(table.text("key"), table.text("value"), table.text("origin"))


def _match(certificate: Certificate, past: PastCycle) -> None:
    try:
        kept = read_certificate(past.certificate)
    except CertificateError as error:
        raise _unmatched(f"the history's certificate of cycle {certificate.cycle} is no use: {error}") from error
    if kept.digest != certificate.digest:
        raise _unmatched(
            f"the history has another certificate of cycle {certificate.cycle}: its digest is {kept.digest}, "
            f"and not {certificate.digest}"
        )
    quiet = {app.app for app in certificate.apps if app.is_quiet}
    held = {outcome.app for outcome in past.verdict.outcomes if outcome.outcome is Outcome.HELD}
    odd = sorted((held - quiet) | (quiet - {outcome.app for outcome in past.verdict.outcomes}))
    if odd:
        raise _unmatched(f"certificate and history disagree on {_names(map(str, odd))} in cycle {certificate.cycle}")


def _unmatched(sentence: str) -> CertificateUnmatched:
    return CertificateUnmatched(
        sentence, "Take certificate and history from the same machine and the same snapshot; do not rely on this pair."
    )


def _told(certificate: Certificate) -> tuple[str, ...]:
    """What the certificate says by itself."""
    quiet = [app for app in certificate.apps if app.is_quiet]
    when = f"At {rfc3339(certificate.time)}, in cycle {certificate.cycle} for {certificate.requester}"
    if not quiet:
        said = [f"{when}, no app was quiet."]
    elif len(quiet) == 1:
        said = [f"{when}, one app was quiet: {_position(quiet[0])}."]
    else:
        said = [f"{when}, {len(quiet)} apps were quiet: {_names(map(_position, quiet))}."]
    if others := [app for app in certificate.apps if not app.is_quiet]:
        said.append(f"Not quiet: {_names(map(_trouble, others))}.")
    if certificate.left_out:
        said.append(f"For want of room the certificate lacks: {_names(certificate.left_out)}.")
    if certificate.rehearses:
        said.append("It was a rehearsal: no file system was frozen, and no snapshot was taken.")
    return tuple(said)


def _ended(past: PastCycle) -> tuple[str, ...]:
    """What the history adds to it."""
    verdict = past.verdict
    hold = f", after a hold of {format_duration(verdict.hold)}" if verdict.hold is not None else ""
    said = [f"The history completes it: the verdict is {verdict.level}{hold}."]
    if verdict.level is Level.APPLICATION:
        whom = " that the freeze concerned" if any(outcome.is_apart for outcome in verdict.outcomes) else ""
        said.append(f"Every required app{whom} held, unbroken, from its ack to the thaw.")
    if still := [part.path for part in verdict.filesystems if part.outcome is FilesystemOutcome.HELD]:
        said.append(f"File systems that stood still until the thaw: {_names(map(safe, still))}.")
    passed_over = (FilesystemOutcome.HELD, FilesystemOutcome.SKIPPED)
    if others := [part for part in verdict.filesystems if part.outcome not in passed_over]:
        said.append(f"File systems that did not: {_names(map(_left_out, others))}.")
    said.extend(f"{safe(reason).rstrip('.')}." for reason in verdict.reasons)
    return tuple(said)


def _left_out(part: FilesystemPart) -> str:
    return f"{safe(part.path)} ({': '.join(filter(None, (part.outcome, safe(part.reason))))})"


def _position(app: CertifiedApp) -> str:
    evidence = ", ".join(f"{key}={value}" for key, value in sorted(app.evidence.items()))
    return f"{app.app} ({evidence})" if evidence else str(app.app)


def _trouble(app: CertifiedApp) -> str:
    return f"{app.app} ({': '.join(filter(None, (app.outcome or 'not asked', app.reason)))})"


def _names(names: Iterable[str]) -> str:
    known = list(names)
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more
