"""Every public error, in one tree. docs/errors.md lists them with their exit codes; a test keeps the two equal.

    AppvssError
      UsageError                      something the caller wrote is wrong
        NameInvalid  DurationInvalid  MessageInvalid  ConfigurationInvalid  ConfigurationUnreadable
      SourceError                     the requester's side cannot be reached
        DeviceAbsent  DeviceBusy  DeviceForbidden  DeviceWrong
      BrokerError                     the broker's side
        BrokerUnreachable  BrokerRefused  LockHeld  SocketPathTooLong  RuntimeDirectoryUnusable
        StateDirectoryUnusable  HistoryTooNew  HistoryUnreadable  AppUnknown
      CycleError                      what a cycle can say no to
        CycleBusy  CycleUnknown  RequestRefused
      CertificateError                what a certificate does not prove
        CertificateInvalid  CertificateEdited  CertificateUnmatched
      VerifyError                     a copy cannot be looked at (`appvss verify`)
        CopyInvalid  CopyInUse  EvidenceMissing  VerifierUnavailable
      MachineUnfit                    `appvss doctor` has found something that would fail a freeze
      AppUnfit                        `appvss check-app` has found an app that does not keep the contract
      CommandUnusable                 a program that was named cannot be started
      AppNotAttached                  the program was started, and its app does not come
      AppError                        raised inside an app, by the SDK or by its author
        Veto  HoldLost  FreezeEnded
      SimulatorUnavailable            this machine cannot carry a simulator

An error is a name (its class), one lower-case sentence that contains the value that was wrong, and a hint: a whole
sentence that says what to do next. `str(error)` is the sentence alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar, Final


class ExitCode(IntEnum):
    """What the `appvss` command's exit code says. Stable: scripts may rely on it (docs/errors.md)."""

    SUCCESS = 0
    INTERNAL = 1
    USAGE = 2
    CONFIGURATION = 3
    BROKER_UNREACHABLE = 4
    DEVICE = 5
    ALREADY_RUNNING = 6
    FORBIDDEN = 7
    NOT_FOUND = 8
    REFUSED = 9
    NOT_CONSISTENT = 10
    COMMAND_FAILED = 11
    UNAVAILABLE = 12
    UNFIT = 13
    UNPROVEN = 14


class AppvssError(Exception):
    """The root of every error that AppVSS raises on purpose.

    Args:
        sentence: one lower-case sentence with the value that was wrong, no full stop.
        hint: one whole sentence that says what to do next.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, sentence: str, hint: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint

    @property
    def name(self) -> str:
        """The stable name of the error, for programs: the class's own name."""
        return type(self).__name__


class UsageError(AppvssError):
    """Something that the caller wrote is wrong."""

    exit_code = ExitCode.USAGE


class NameInvalid(UsageError):
    """An app's name or instance is empty, too long, or has a character that is not allowed."""


class DurationInvalid(UsageError):
    """A length of time that has no unit or cannot be read."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text!r} is not a length of time",
            "Write a number with a unit: 500ms, 15s, 2m, 1h; parts may be joined, as in 1m30s.",
        )


class MessageInvalid(UsageError):
    """A message from the other side of a socket breaks the contract of `proto/appvss/v1`."""


CHECK_HINT: Final = "`appvss config sample` prints every key with its meaning; `appvss config check FILE` checks again."
SAMPLE_HINT: Final = "Name a file that this user may read; `appvss config sample` prints one to begin with."


class ConfigurationInvalid(UsageError):
    """A configuration file with problems. All of them are in `problems`, not only the first.

    Args:
        path: where the configuration was read from, for the sentence.
        problems: one line each, `key: what is wrong`.
        hint: what to do; the default is for the broker's file.
    """

    exit_code = ExitCode.CONFIGURATION

    def __init__(self, path: str, problems: Sequence[str], hint: str = CHECK_HINT) -> None:
        count = len(problems)
        super().__init__(f"{path} has {count} problem{'s' if count != 1 else ''}: {'; '.join(problems)}", hint)
        self.problems = tuple(problems)


class ConfigurationUnreadable(UsageError):
    """A configuration file that is not there or cannot be read.

    Args:
        path: the file.
        reason: why, in lower case.
        hint: what to do; the default is for the broker's file.
    """

    exit_code = ExitCode.CONFIGURATION

    def __init__(self, path: str, reason: str, hint: str = SAMPLE_HINT) -> None:
        super().__init__(f"the configuration {path} cannot be read: {reason}", hint)


class SourceError(AppvssError):
    """The requester's side cannot be reached."""

    exit_code = ExitCode.DEVICE


class DeviceAbsent(SourceError):
    """Nothing lies at the configured path of the device."""


class DeviceBusy(SourceError):
    """Another process has the device open: it is exclusive."""


class DeviceForbidden(SourceError):
    """The device is there, and this process may not open it."""

    exit_code = ExitCode.FORBIDDEN


class DeviceWrong(SourceError):
    """What lies at the path is not the device that the configuration says."""


class BrokerError(AppvssError):
    """The broker cannot be started, reached or used."""


class BrokerUnreachable(BrokerError):
    """No broker answers at the socket."""

    exit_code = ExitCode.BROKER_UNREACHABLE


class BrokerRefused(BrokerError):
    """The broker answered and said no."""

    exit_code = ExitCode.REFUSED


class LockHeld(BrokerError):
    """Another broker runs with the same runtime directory."""

    exit_code = ExitCode.ALREADY_RUNNING


class SocketPathTooLong(BrokerError):
    """A Unix socket's path would not fit into the kernel's address structure."""

    exit_code = ExitCode.CONFIGURATION


class RuntimeDirectoryUnusable(BrokerError):
    """The directory of the sockets cannot be made, entered or written, or belongs to somebody else."""

    exit_code = ExitCode.FORBIDDEN


class StateDirectoryUnusable(BrokerError):
    """The directory of the journal, the history and the certificate belongs to somebody else, or is none."""

    exit_code = ExitCode.FORBIDDEN


class HistoryTooNew(BrokerError):
    """The history was written by a newer AppVSS. It is left as it is."""

    exit_code = ExitCode.CONFIGURATION


class AppUnknown(BrokerError):
    """No app of that name is registered, expected or remembered."""

    exit_code = ExitCode.NOT_FOUND


class HistoryUnreadable(BrokerError):
    """A history that an administrator named is not there, is none, or is in use by a broker."""

    exit_code = ExitCode.NOT_FOUND


class CycleError(AppvssError):
    """A cycle cannot do what was asked."""

    exit_code = ExitCode.REFUSED


class CycleBusy(CycleError):
    """Another cycle is under way."""


class RequestRefused(CycleError):
    """The broker's configuration does not allow such a request."""


class CycleUnknown(CycleError):
    """No cycle of that id is known."""

    exit_code = ExitCode.NOT_FOUND


class CertificateError(AppvssError):
    """A certificate does not prove what it should."""

    exit_code = ExitCode.UNPROVEN


class CertificateInvalid(CertificateError):
    """A file that is not there, cannot be read, or is no certificate that this version knows."""

    exit_code = ExitCode.NOT_FOUND


class CertificateEdited(CertificateError):
    """A certificate whose content does not match its digest: it was changed after it was written."""


class CertificateUnmatched(CertificateError):
    """The history knows the cycle of a certificate, but with another certificate: the two are not of one snapshot."""


class VerifyError(AppvssError):
    """A copy cannot be looked at, so that nothing is known of what it is worth."""

    exit_code = ExitCode.UNPROVEN


class CopyInvalid(VerifyError):
    """An image or folder that is not there, cannot be read, or does not have the app's files."""

    exit_code = ExitCode.NOT_FOUND


class CopyInUse(VerifyError):
    """What was named is no copy: somebody is writing to it, or it is mounted."""

    exit_code = ExitCode.REFUSED


class EvidenceMissing(VerifyError):
    """Nobody knows what the app had said in the cycle, or the app did not hold in it."""

    exit_code = ExitCode.NOT_FOUND


class VerifierUnavailable(VerifyError):
    """This machine cannot verify such a copy: no root, no room, no server program, or an engine without a verifier."""

    exit_code = ExitCode.UNAVAILABLE


class MachineUnfit(AppvssError):
    """The pre-flight has found something that would fail a freeze, or leave it unproven."""

    exit_code = ExitCode.UNFIT


class AppUnfit(AppvssError):
    """The kit for apps has found one that does not keep the contract."""

    exit_code = ExitCode.UNFIT


class CommandUnusable(AppvssError):
    """A program that was named cannot be started."""

    exit_code = ExitCode.NOT_FOUND


class AppNotAttached(AppvssError):
    """A program was started whose app does not come, or is not admitted."""

    exit_code = ExitCode.UNAVAILABLE


class AppError(AppvssError):
    """Raised inside an app: by its author to say something, or by the SDK to end a freeze."""

    retryable = False
    """Whether trying again soon may help."""


class Veto(AppError):
    """Raise this while entering the freeze, or in prepare, to refuse it.

    Args:
        reason: why, one sentence, for the administrator. Never empty.
        retryable: whether trying again soon may help (a long statement is running, say).
    """

    def __init__(self, reason: str, *, retryable: bool = False) -> None:
        super().__init__(reason, "The app refused this freeze; its reason says what to do.")
        self.reason = reason
        self.retryable = retryable


class HoldLost(AppError):
    """Raise this while leaving the freeze when the hold was not what it seemed (session gone, lock expired)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "The snapshot of this cycle is not application-consistent for this app; take another.")
        self.reason = reason


class FreezeEnded(AppError):
    """The freeze that the app is in has ended: its limit passed, or the broker aborted the cycle. Let go at once."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "Release what is held and return; the SDK reports the outcome.")
        self.reason = reason


class SimulatorUnavailable(AppvssError):
    """This machine cannot carry the simulator (no /dev/fuse, no rights to mount)."""

    exit_code = ExitCode.UNAVAILABLE
