"""The nouns are frozen values: nobody changes one that another room holds. Their words go over the wire."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import pkgutil

import pytest

from appvss import model
from appvss.model.request import RequestKind
from appvss.model.source import SourceCondition, SourceMode

MODULES = [importlib.import_module(f"{model.__name__}.{found.name}") for found in pkgutil.iter_modules(model.__path__)]
CLASSES = [
    value
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, type) and value.__module__ == module.__name__
]


@pytest.mark.parametrize("noun", [one for one in CLASSES if dataclasses.is_dataclass(one)])
def test_every_noun_is_frozen_and_has_no_room_for_more(noun: type) -> None:
    assert noun.__dataclass_params__.frozen  # type: ignore[attr-defined] # every dataclass has it
    assert "__slots__" in vars(noun)
    assert noun.__doc__


@pytest.mark.parametrize("words", [one for one in CLASSES if issubclass(one, enum.StrEnum)])
def test_words_are_lower_case_and_their_own_names(words: type[enum.StrEnum]) -> None:
    assert [word.value.replace("-", "_") for word in words] == [word.name.lower() for word in words]


def test_the_words_of_requests_and_sources() -> None:
    assert list(RequestKind) == ["check", "freeze", "thaw"]
    assert list(SourceMode) == ["required", "automatic", "off"]
    assert list(SourceCondition) == ["off", "waiting", "serving", "lost"]
