"""The options that say which file systems are meant."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from appvss.model.errors import UsageError
from appvss.model.filesystem import FilesystemChoice, Scope

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _absolute(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(os.path.abspath(value) for value in values)


def mount_option(help_text: str) -> Callable[[_Function], _Function]:
    """`--mount PATH`, which may be given several times; a relative path counts from the working directory."""
    return click.option("--mount", "mounts", metavar="PATH", multiple=True, callback=_absolute, help=help_text)


def choice_of(
    given: dict[str, bool], mounts: tuple[str, ...], otherwise: Scope, *, spares_root: bool = False
) -> FilesystemChoice:
    """Which file systems are meant.

    Args:
        given: the flags that exclude each other and --mount, each with whether it was given: `--all`, ...
        mounts: what --mount names.
        otherwise: what is meant when nothing is given.
        spares_root: whether `/` is left out, unless everything or it is named.

    Raises:
        UsageError: more than one was given.
    """
    scopes = {"--all": Scope.ALL, "--no-filesystems": Scope.NONE, "--declared": Scope.DECLARED}
    named = [flag for flag, is_given in given.items() if is_given] + (["--mount"] if mounts else [])
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} exclude each other", "Give one of them.")
    if mounts:
        return FilesystemChoice(Scope.NAMED, tuple(dict.fromkeys(mounts)))
    scope = scopes[named[0]] if named else otherwise
    return FilesystemChoice(scope, spares_root=spares_root and scope is Scope.DECLARED)
