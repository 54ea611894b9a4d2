"""What an adapter can say no to. docs/errors.md lists these with all others.

    AppError
      AdapterError                    an adapter cannot do its part
        SettingInvalid  DriverMissing  ServerUnreachable  LoginRefused  PrivilegeMissing  ServerUnfit  HoldRefused

A sentence never contains a secret: no DSN, no password, no URL with one.
"""

from __future__ import annotations

from appvss.model.errors import AppError, ExitCode, UsageError


class AdapterError(AppError):
    """An adapter cannot do its part. As an exception in a freeze it is a veto with its sentence and its hint."""

    exit_code = ExitCode.UNFIT


class SettingInvalid(AdapterError, UsageError):
    """A setting of an adapter is not what it should be."""

    exit_code = ExitCode.CONFIGURATION


class DriverMissing(AdapterError):
    """The package that speaks to the application is not installed."""

    exit_code = ExitCode.UNAVAILABLE


class ServerUnreachable(AdapterError):
    """The application does not answer."""

    retryable = True


class LoginRefused(AdapterError):
    """The application does not accept the account: wrong password, or no such user."""


class PrivilegeMissing(AdapterError):
    """The account may not do what the recipe needs; the hint has the GRANT that cures it."""


class ServerUnfit(AdapterError):
    """The application cannot be held as it is: too old, a wrong setting, a pooler in between, a read-only replica."""


class HoldRefused(AdapterError):
    """The application did not come to rest now: a long statement, a running dump, a full disk."""

    retryable = True
