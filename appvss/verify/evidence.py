"""What an app had said in the cycle that a copy is of: from a certificate, or from what an administrator names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appvss.model.certificate import SIZE_LIMIT, Certificate, read_certificate
from appvss.model.errors import CertificateError, EvidenceMissing
from appvss.model.names import printable

STATE_DIRECTORIES: Final = ("var/lib/appvss", "lib/appvss", "appvss", "var/db/appvss", "db/appvss", "")
"""Where a volume may have a broker's state directory, below its root: the platforms' defaults, on whatever volume."""
CERTIFICATES: Final = ("certificate.json", "certificate.restored.json")
_PATH: Final = re.compile(r"(?:^|(?<=[,;=]))/[^,;=\0]*")
"""A path at the beginning of a value or of a part of it. The slash of a log position is none."""

_LENGTH: Final = 256
_CUT: Final = "..."
"""How a longer value ends (`printable`)."""
_FOR_PEOPLE: Final = ("settings", "position")
"""What no path is read from. A position that a verifier compares is a digest, if it is long."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one app gave with its ack, and where that was read."""

    values: Mapping[str, str]
    """As the adapter gave them: `engine`, `marker`, `position`, `data_directory`, and the engine's own."""
    cycle: str = ""
    """Empty: it is of no cycle, an administrator named what to look at."""
    origin: str = ""
    """For people: `the certificate that the image carries`."""

    def check_whole(self) -> None:
        """Refuse what was too long for a certificate: a path that was cut is another one, and of a list one is missing.

        Raises:
            EvidenceMissing: something was cut that is needed.
        """
        cut = [
            name
            for name, value in self.values.items()
            if len(value) == _LENGTH and value.endswith(_CUT) and name not in _FOR_PEOPLE
        ]
        if self.cycle and cut:  # what an administrator names comes as it is
            raise EvidenceMissing(
                f"the app said more in cycle {self.cycle} than a certificate keeps: its {', '.join(cut)} "
                f"{'is' if len(cut) == 1 else 'are'} cut at {_LENGTH} characters",
                "What the copy is worth without a hold is found out with --engine and --data-directory.",
            )

    @property
    def engine(self) -> str:
        """The engine's word (`appvss.adapters.ENGINES`); empty: the app is none of an adapter's."""
        return self.values.get("engine", "")

    @property
    def data_directory(self) -> str:
        """Where the app's files lay on the machine; empty: it did not say."""
        return self.values.get("data_directory", "")

    def paths(self) -> Iterator[Path]:
        """Every path of the machine that it names, the data directory first."""
        found = [self.data_directory, *self.values.values()]
        texts = dict.fromkeys(text for value in found for text in _PATH.findall(value))
        yield from (Path(text) for text in texts if text != "/" and "//" not in text)

    def document(self) -> dict[str, Any]:
        """In words of JSON."""
        return {"values": dict(self.values), "cycle": self.cycle, "origin": self.origin}


def of_app(certificate: Certificate, name: str, origin: str) -> Evidence:
    """What the app of that name had said.

    Args:
        certificate: of the cycle.
        name: the app's, with its instance in brackets if it has one.
        origin: where the certificate was read, for people.

    Raises:
        EvidenceMissing: the certificate has no such app, or it was not quiet, or left nothing.
    """
    app = next((one for one in certificate.apps if str(one.app) == name), None)
    if app is None:
        names = ", ".join(str(one.app) for one in certificate.apps) or "no app at all"
        raise EvidenceMissing(
            f"{origin} (cycle {certificate.cycle}) has no app {printable(name, 80)!r}",
            f"It has {names}.",
        )
    if not app.is_quiet:
        why = app.reason or (app.outcome.value if app.outcome else "it was not asked")
        raise EvidenceMissing(
            f"{name} was not quiet in cycle {certificate.cycle}: {why}",
            "What the copy is worth without a hold is found out with --engine and --data-directory.",
        )
    if not app.evidence:
        raise EvidenceMissing(
            f"{name} left no evidence in cycle {certificate.cycle}",
            "Only the apps of `appvss agent` leave what a copy can be verified by; name --engine and --data-directory.",
        )
    return Evidence(app.evidence, certificate.cycle, origin)


def carried(root: Path) -> Certificate | None:
    """The certificate that a volume carries in a broker's state directory; None: none that is one.

    Args:
        root: the volume's root folder, or a whole machine's.
    """
    for state in STATE_DIRECTORIES:
        for name in CERTIFICATES:
            try:
                descriptor = os.open(root / state / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
                with open(descriptor, "rb") as file:
                    return read_certificate(file.read(SIZE_LIMIT + 1).decode("utf-8", "replace"))
            except (OSError, CertificateError):
                continue
    return None
