"""`appvss certificate`: what the certificate that a disk image carries says, and what it proves with the history."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from appvss.cli import documents, render
from appvss.cli.invocation import Invocation, LazyCommand, LazyGroup, json_option, runtime_directory_option
from appvss.cli.times import local_time
from appvss.model.certificate import SIZE_LIMIT, examine, read_certificate
from appvss.model.duration import format_duration
from appvss.model.errors import BrokerError, CertificateInvalid, CycleUnknown, ExitCode
from appvss.model.names import printable
from appvss.model.past import PastCycle
from appvss.model.phase import Phase
from appvss.model.verdict import Level

if TYPE_CHECKING:
    from appvss.model.certificate import Certificate, CertifiedApp, Examination
    from appvss.sdk.admin_cycles import CycleDetail

COMMANDS = {
    "show": LazyCommand("appvss.cli.certificate", "show", "Show what a certificate says."),
    "verify": LazyCommand("appvss.cli.certificate", "verify", "Say what a certificate and the history prove together."),
}
FILES: Final = ("certificate.json", "certificate.restored.json")
"""What a state directory calls it: in the image of a hold, and on a machine that was restored from one."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HINT: Final = (
    "Name the file, or the state directory of a mounted image (`broker.state_directory`, such as var/lib/appvss). Only "
    "an image that was made in a hold has one."
)


@click.group(
    "certificate",
    cls=LazyGroup,
    lazy=COMMANDS,
    invoke_without_command=True,
    short_help="Show or verify the certificate that a disk image carries.",
)
@click.pass_context
def certificate(context: click.Context) -> None:
    """Show or verify the certificate that a disk image carries: the proof that its apps were held."""
    if context.invoked_subcommand is None:
        raise click.UsageError("no command was named", context)


@click.command("show", short_help=COMMANDS["show"].summary)
@json_option
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def show(invocation: Invocation, file: Path) -> None:
    """Show what the certificate FILE says. FILE may be the state directory of a mounted image.

    Code 8: there is none, or it is no certificate. Code 14: it was changed after it was written.
    """
    path = find(file)
    value = read_certificate(read_text(path))
    if invocation.as_json:
        render.document("certificate", {"file": printable(str(path), 4096), **documents.certificate(value)})
    else:
        _show(path, value)


@click.command("verify", short_help=COMMANDS["verify"].summary)
@click.option(
    "--history",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A state directory, or its history.sqlite. Else the running broker is asked.",
)
@runtime_directory_option
@json_option
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def verify(invocation: Invocation, file: Path, history: Path | None) -> int:
    """Say what the certificate FILE and the history of the machine that wrote it prove together.

    FILE may be the state directory of a mounted image. The certificate tells what was held when the snapshot was made,
    the history whether it was held until the thaw. The history is that of the running broker, or of --history.

    Code 0: the two belong together, and the cycle was application-consistent. Code 10: they belong together, and it was
    less. Code 14: nothing is proven, or the certificate was changed after it was written. Code 8: there is no
    certificate, or no such history.
    """
    value = read_certificate(read_text(find(file)))
    past, note = _past(invocation, value.cycle, history)
    found = examine(value, past)
    if invocation.as_json:
        render.document("examination", documents.examination(found, note))
    else:
        _show_examination(found, note)
    if not found.is_proven:
        return ExitCode.UNPROVEN
    return ExitCode.SUCCESS if found.level is Level.APPLICATION else ExitCode.NOT_CONSISTENT


def find(file: Path) -> Path:
    """The certificate's file: the path itself, or the one that a state directory has."""
    if not file.is_dir():
        return file
    return next((file / name for name in FILES if os.path.lexists(file / name)), file / FILES[0])


def read_text(path: Path) -> str:
    """What is in the file.

    Raises:
        CertificateInvalid: it is not there, cannot be read, is no regular file, or is far too long.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not make it wait
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CertificateInvalid(f"{printable(str(path), 1024)} is no regular file", _HINT)
            content = file.read(SIZE_LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise CertificateInvalid(
            f"the certificate {printable(str(path), 1024)} cannot be read: {printable(reason)}", _HINT
        ) from error
    return content.decode("utf-8", "replace")


def _past(invocation: Invocation, cycle: str, history: Path | None) -> tuple[PastCycle | None, str]:
    """The history's record of a cycle; None, with a sentence, when there is none at hand."""
    if history is not None:
        from appvss.history import read_history

        reader = read_history(history)
        try:
            past = reader.cycle(cycle)
        finally:
            reader.close()
        return past, "" if past else f"The history {printable(str(history), 1024)} does not know cycle {cycle}."
    try:
        with invocation.client() as client:
            return _past_of(client.cycle(cycle)), ""
    except CycleUnknown:
        return None, f"The running broker does not know cycle {cycle}."
    except BrokerError as error:
        return None, f"There is no history at hand: {error.sentence}. Name one with --history."


def _past_of(detail: CycleDetail) -> PastCycle:
    """The running broker's record. Its events are no part of any proof."""
    summary = detail.summary
    return PastCycle(
        cycle=summary.cycle,
        source=summary.source,
        requester=summary.requester,
        time=summary.time - _EPOCH,
        took=summary.took,
        phase=summary.phase or Phase.ABORTED,
        verdict=summary.verdict,
        certificate=detail.certificate,
        rehearses=summary.rehearses,
    )


def _show(path: Path, value: Certificate) -> None:
    render.rows(
        [
            ("certificate", printable(str(path), 1024)),
            ("rehearsal" if value.rehearses else "cycle", value.cycle),
            ("asked for", f"by {value.requester} ({value.source})"),
            ("written", f"{local_time(_EPOCH + value.time)}, {format_duration(value.written_after)} after the request"),
            ("machine", f"{value.host}, boot {value.boot}"),
            ("broker", value.version),
            ("stage", value.stage.value),
            ("hold limit", format_duration(value.hold_limit)),
            ("digest", value.digest),
        ]
    )
    render.line()
    if not value.apps:
        render.line("no app took part")
        return
    render.table(
        ("APP", "QUIET", "REQUIREMENT", "ORDER", "FROZE IN", "MAY HOLD"), [_app_row(app) for app in value.apps]
    )
    for app in value.apps:
        if app.reason:
            render.paragraph(f"{app.app}: {printable(app.reason)}", rest="  ")
        for key, text in app.evidence.items():
            render.paragraph(f"{app.app}: {printable(key)} = {printable(text)}", rest="  ")
    if value.left_out:
        render.paragraph(f"Left out for want of room: {', '.join(value.left_out)}.")


def _app_row(app: CertifiedApp) -> tuple[str, ...]:
    return (
        str(app.app),
        "yes" if app.is_quiet else f"no, {app.outcome or 'not asked'}",
        app.requirement.value,
        str(app.order),
        _length(app.time_to_freeze),
        _length(app.hold_limit or None),
    )


def _length(length: timedelta | None) -> str:
    return "-" if length is None else format_duration(length)


def _show_examination(found: Examination, note: str) -> None:
    word = "PROVEN" if found.is_proven else "NOT PROVEN"
    level = f", the verdict is {found.level}" if found.level is not None else ""
    render.line(f"{word}: cycle {found.cycle}{level}")
    for sentence in (*found.sentences, *((note,) if note else ())):
        render.paragraph(sentence, "- ")
