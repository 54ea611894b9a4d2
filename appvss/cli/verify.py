"""`appvss verify`: what a copy of a database is worth. It is started, privately, and looked at."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from appvss.cli import render
from appvss.cli.certificate import find, read_text
from appvss.cli.invocation import Invocation, json_option, length_of_time, runtime_directory_option
from appvss.model.certificate import read_certificate
from appvss.model.certificate_text import safe
from appvss.model.duration import format_duration
from appvss.model.errors import BrokerError, CycleUnknown, EvidenceMissing, ExitCode
from appvss.model.grade import Grade
from appvss.model.names import printable
from appvss.model.verdict import AppOutcome, Outcome, Verdict

if TYPE_CHECKING:
    from appvss.verify.base import Report
    from appvss.verify.evidence import Evidence
    from appvss.verify.outside import Given, Verified

MEANINGS: Final = {
    Grade.RAW: "The copy did not start, or its own check failed: do not rely on it.",
    Grade.FS: (
        "The copy starts and is in order, as after a power cut or a kill; nothing shows that it was taken in the hold, "
        "and what the engine had only in its memory may be missing."
    ),
    Grade.APP: "The copy has the state that was held in the cycle; the engine's own check was not run.",
    Grade.APP_VERIFIED: "The copy has the state that was held in the cycle, starts, and passes the engine's own check.",
}
_NEWEST: Final = "the newest cycle in which the app held: no other was named, and the copy names none"
_SIGNAL_BASE: Final = 128
_SEARCHED: Final = 1000
"""How many cycles are looked through for the newest in which the app held."""


def _given(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[Path, Path], ...]:
    found = []
    for value in values:
        place, separator, path = value.partition("=")
        if not separator or not place.startswith("/") or not path:
            raise click.BadParameter(f"{value!r} is not MOUNTPOINT=COPY, such as /srv/wal=/backup/wal.img")
        found.append((Path(place), Path(path)))
    return tuple(found)


@click.command("verify", short_help="Start a private copy of a database from a snapshot, and say what it is worth.")
@click.option("--app", metavar="NAME", help="The app as it registers, with its instance if it has one: orders-db[eu].")
@click.option(
    "--volume",
    "volumes",
    metavar="MOUNTPOINT=COPY",
    multiple=True,
    callback=_given,
    help="The copy of another volume of the app, and where that was mounted. May be given several times.",
)
@click.option(
    "--mounted-at", metavar="PATH", type=click.Path(path_type=Path), help="Where COPY was mounted. Else guessed."
)
@click.option(
    "--partition", metavar="N", type=click.IntRange(1, 256), help="Of COPY. Else the one with the app's files."
)
@click.option("--certificate", metavar="FILE", type=click.Path(path_type=Path), help="What the app said stands there.")
@click.option("--cycle", metavar="ID", help="What the app said is taken from this cycle of the history.")
@click.option(
    "--history",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A state directory, or its history.sqlite. Else the running broker is asked.",
)
@click.option("--engine", metavar="NAME", help="Verify without any evidence: what the copy is of.")
@click.option("--data-directory", metavar="PATH", help="With --engine: where the files lay on the machine.")
@click.option(
    "--work",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the private copy is made. Else in the folder for temporary files.",
)
@click.option(
    "--limit", metavar="LENGTH", default="10m", show_default=True, callback=length_of_time, help="How long it may take."
)
@runtime_directory_option
@json_option
@click.argument("copy", type=click.Path(path_type=Path))
@click.pass_context
def verify(
    context: click.Context,
    /,
    app: str | None,
    copy: Path,
    volumes: tuple[tuple[Path, Path], ...],
    mounted_at: Path | None,
    partition: int | None,
    work: Path | None,
    limit: timedelta,
    **source: Any,
) -> int:
    """Start a private copy of an app's database from COPY, and say which grade it has earned, and by what.

    COPY is an image of a volume or a disk, a block device, or a folder. It is only read: what is mounted and started is
    a copy of it, without a network, and never the live server. What the app had said comes from --certificate, from
    the --cycle of the history, from the certificate that the copy carries, or from the newest cycle in which the app
    held.

    Code 0: app-verified. Code 14: it is less. Code 8: no such copy, app or evidence. Code 9: it is no copy, but in use.
    Code 12: this machine cannot verify it.
    """
    from appvss.verify.outside import Given, Order
    from appvss.verify.outside import verify as verify_copy

    invocation: Invocation = context.obj
    given: list[Given] = [Given(copy, mounted_at, partition), *(Given(path, place) for place, path in volumes)]
    known = _known(invocation, app, source)
    order = Order(app or "", given, known.named, known.newest, known.unknown, work, limit)
    with _ended_by_signals():
        found = verify_copy(order)
    outcome = known.outcomes.get(found.evidence.cycle)
    found = replace(found, report=_with_history(found.report, found.evidence, outcome))
    if invocation.as_json:
        render.document("verification", document(app or "", copy, found))
    else:
        _show(app or "", copy, found, known.note if outcome is None else "")
    return ExitCode.SUCCESS if found.report.grade is Grade.APP_VERIFIED else ExitCode.UNPROVEN


class _Known:
    """What is known of the app before the copy was looked at."""

    def __init__(self) -> None:
        self.named: Evidence | None = None
        """What an administrator has named."""
        self.newest: Evidence | None = None
        self.unknown = ""
        """Why there is no newest."""
        self.outcomes: dict[str, AppOutcome] = {}
        """The app's part in cycles of the history."""
        self.note = ""


def _known(invocation: Invocation, app: str | None, source: Mapping[str, Any]) -> _Known:
    from appvss.verify.evidence import Evidence, of_app

    known = _Known()
    if source["engine"]:
        if not source["data_directory"]:
            raise click.UsageError("--engine needs --data-directory: where its files lay on the machine")
        values = {"engine": source["engine"], "data_directory": source["data_directory"]}
        known.named = Evidence(values, "", "the command line")
        known.note = "No cycle was named: nothing can show that the copy was taken in a hold."
        return known
    if not app:
        raise click.UsageError("name the app (--app), or what to look at (--engine and --data-directory)")
    if source["certificate"] is not None:
        path = find(source["certificate"])
        certificate = read_certificate(read_text(path))
        known.named = of_app(certificate, app, f"the certificate {printable(str(path), 1024)}")
        _look_up(known, invocation, app, source["history"], certificate.cycle)
        return known
    _look_up(known, invocation, app, source["history"], source["cycle"])
    if source["cycle"]:
        if known.newest is None:
            raise EvidenceMissing(
                f"cycle {printable(source['cycle'], 80)} has nothing of {printable(app, 80)}: {known.unknown}",
                "`appvss history --app NAME` lists the cycles that the app took part in; or name its certificate.",
            )
        known.named = replace(known.newest, origin="the history")
    return known


def _look_up(known: _Known, invocation: Invocation, app: str, history: Path | None, cycle: str | None) -> None:
    """Take what the history has, of one cycle or of the newest in which the app held."""
    from appvss.verify.evidence import Evidence

    try:
        for verdict in _verdicts(invocation, history, cycle):
            part = next((part for part in verdict.outcomes if str(part.app) == app), None)
            if part is None:
                continue
            known.outcomes[verdict.cycle] = part
            if known.newest is None and part.outcome is Outcome.HELD and part.evidence:
                known.newest = Evidence(part.evidence, verdict.cycle, _NEWEST)
        known.unknown = (
            "it held in no cycle that is known" if cycle is None else f"it did not hold in {printable(cycle)}"
        )
    except CycleUnknown as error:
        known.unknown = error.sentence
    except BrokerError as error:
        if history is not None:
            raise
        known.unknown = error.sentence
    known.note = f"Whether the hold lasted until the thaw is not known: {known.unknown}."


def _verdicts(invocation: Invocation, history: Path | None, cycle: str | None) -> list[Verdict]:
    """The verdict of one cycle, or of the newest ones, the newest first; rehearsals are none."""
    if history is None:
        with invocation.client() as client:
            summaries = [client.cycle(cycle).summary] if cycle else client.cycles(_SEARCHED)
        return [summary.verdict for summary in summaries if not summary.rehearses]
    from appvss.history import read_history

    with read_history(history) as reader:
        if cycle is None:
            return [past.verdict for past in reader.cycles(_SEARCHED) if not past.rehearses]
        past = reader.cycle(cycle)
        return [] if past is None or past.rehearses else [past.verdict]


def _with_history(report: Report, evidence: Evidence, outcome: AppOutcome | None) -> Report:
    """Add what the history knows: without an unbroken hold, or with other evidence than the app had given in it, a copy
    is worth `fs` at most.
    """
    from appvss.verify.base import Finding

    if outcome is None:
        return report
    why = f": {outcome.reason}" if outcome.reason else ""
    if outcome.outcome is not Outcome.HELD:
        said = f"the history says {outcome.outcome.value}{why}"
    elif outcome.grade in (Grade.RAW, Grade.FS):
        said = f"the history says that the app held, and grades the copy of its files {outcome.grade.value}{why}"
    elif outcome.evidence and _safe(outcome.evidence) != _safe(evidence.values):
        said = f"the history has other evidence of the app in this cycle than {evidence.origin}"
    else:
        said = "the history says that the app held until the thaw"
        return replace(report, findings=(*report.findings, Finding("hold", passed=True, sentence=said)))
    grade = report.grade if report.grade is Grade.RAW else Grade.FS
    return replace(report, grade=grade, findings=(*report.findings, Finding("hold", passed=False, sentence=said)))


def _safe(evidence: Mapping[str, str]) -> Mapping[str, str]:
    """As a certificate carries it."""
    return {safe(key): safe(value) for key, value in evidence.items()}


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end it as Ctrl-C does, with everything tidied up."""

    def end(number: int, _frame: FrameType | None) -> None:
        for other in former:
            signal.signal(other, signal.SIG_IGN)  # the tidying up is not to be interrupted
        raise SystemExit(_SIGNAL_BASE + number)

    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if current_thread() is main_thread() else ()
    former: dict[signal.Signals, Any] = {
        one: signal.getsignal(one) for one in ending if signal.getsignal(one) is not signal.SIG_IGN
    }
    for one in former:
        signal.signal(one, end)
    try:
        yield
    finally:
        for one, handler in former.items():
            signal.signal(one, handler)


def document(app: str, copy: Path, found: Verified) -> Mapping[str, object]:
    """The result as docs/reference/json.md describes it."""
    return {
        "app": app or None,
        "copy": printable(str(copy), 4096),
        "cycle": found.evidence.cycle or None,
        "engine": found.report.engine,
        "version": found.report.version or None,
        "grade": found.report.grade.value,
        "findings": [
            {"name": one.name, "passed": one.passed, "sentence": one.sentence} for one in found.report.findings
        ],
        "evidence": {printable(key): printable(value) for key, value in found.evidence.values.items()},
        "evidence_origin": found.evidence.origin,
        "took_seconds": found.took.total_seconds(),
    }


def _show(app: str, copy: Path, found: Verified, note: str) -> None:
    report = found.report
    render.line(f"{report.grade.value}: {app or printable(str(copy), 1024)}")
    render.paragraph(MEANINGS[report.grade])
    render.line()
    pairs = [
        ("copy", printable(str(copy), 1024)),
        ("engine", " ".join(filter(None, (report.engine, report.version)))),
        ("cycle", found.evidence.cycle),
        ("evidence", found.evidence.origin),
        ("took", format_duration(found.took)),
    ]
    render.rows([(name, text) for name, text in pairs if text])
    render.line()
    width = max((len(one.name) for one in report.findings), default=0)
    for one in report.findings:
        render.graded("ok" if one.passed else "problem", f"{one.name.ljust(width)}  ", one.sentence)
    if note:
        render.line()
        render.paragraph(note)
