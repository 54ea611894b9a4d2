"""The settings that a dataclass declares: the one schema for loader, messages, sample and reference.

A setting's kind is its type in the dataclass (`adapters/settings.py`), so an adapter says no more than
`port: int = setting(5432, "The port.")`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from appvss.adapters.settings import NO_SECRET, Secret
from appvss.agent.kinds import AbsolutePath, Kind, Length, Number, SecretReference, Text, Texts
from appvss.model.toml_value import Choice, Flag

_KINDS: Final[Mapping[object, Kind]] = {
    str: Text(),
    bool: Flag(),
    int: Number(),
    timedelta: Length(),
    Path: AbsolutePath(),
    tuple[str, ...]: Texts(),
    Secret: SecretReference(),
}


def kind_of(hint: Any) -> Kind:
    """The kind of a setting by the type that it is declared with. `X | None` is an X that may be left open.

    Raises:
        TypeError: a setting may not have this type.
    """
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = [part for part in typing.get_args(hint) if part is not types.NoneType]
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return Choice(hint)
    if hint not in _KINDS:
        raise TypeError(f"a setting cannot be of the type {hint!r}")
    return _KINDS[hint]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: a row of the reference, a line of the sample, an entry of the loader."""

    name: str
    kind: Kind
    default: object
    meaning: str
    example: object
    """What the sample shows."""
    is_needed: bool
    in_sample: bool
    """Whether the sample has it in force, though it is not needed."""

    @property
    def default_text(self) -> str:
        """What is in force when it is not given, as Markdown."""
        if self.is_needed:
            return "must be given"
        if self.default is None or self.default is NO_SECRET or self.default in ("", (), Path()):
            return "not given"
        return f"`{self.kind.write(self.default)}`"


def settings_of(schema: type[Any]) -> tuple[Setting, ...]:
    """Every setting that a dataclass declares with `setting`, in its order.

    Raises:
        TypeError: one has a type that no setting may have.
    """
    hints = typing.get_type_hints(schema)
    return tuple(
        Setting(
            name=entry.name,
            kind=kind_of(hints[entry.name]),
            default=entry.default,
            meaning=entry.metadata["meaning"],
            example=entry.default if entry.metadata["example"] is None else entry.metadata["example"],
            is_needed=entry.metadata["is_needed"],
            in_sample=entry.metadata["in_sample"],
        )
        for entry in fields(schema)
        if "meaning" in entry.metadata
    )
