"""Errors have a name, one sentence and a hint."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from appvss.model import errors
from appvss.model.errors import AppvssError, ConfigurationInvalid, ExitCode, FreezeEnded, HoldLost, Veto


def _tree(root: type[AppvssError]) -> Iterator[type[AppvssError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


OURS = sorted(
    {error for error in _tree(AppvssError) if error.__module__ == errors.__name__}, key=lambda error: error.__name__
)


@pytest.mark.parametrize("error", OURS)
def test_every_error_is_in_the_modules_tree_and_has_words_and_an_exit_code(error: type[AppvssError]) -> None:
    assert error.__name__ in (errors.__doc__ or "")
    assert inspect.getdoc(error)
    assert isinstance(error.exit_code, ExitCode)


def test_exit_codes_are_stable() -> None:
    assert [code.value for code in ExitCode] == list(range(15))


def test_an_error_is_a_name_a_sentence_and_a_hint() -> None:
    error = AppvssError("the door is shut", "Open it.")
    assert (error.name, str(error), error.sentence, error.hint) == (
        "AppvssError",
        "the door is shut",
        "the door is shut",
        "Open it.",
    )


@pytest.mark.parametrize(
    ("problems", "count"), [(["a: wrong"], "1 problem:"), (["a: wrong", "b: worse"], "2 problems:")]
)
def test_a_configuration_error_has_all_its_problems(problems: list[str], count: str) -> None:
    error = ConfigurationInvalid("here.toml", problems)
    assert error.problems == tuple(problems)
    assert count in str(error)
    assert all(problem in str(error) for problem in problems)
    assert error.exit_code is ExitCode.CONFIGURATION


def test_a_configuration_that_cannot_be_read() -> None:
    error = errors.ConfigurationUnreadable("here.toml", "permission denied")
    assert str(error) == "the configuration here.toml cannot be read: permission denied"


def test_what_apps_raise_has_their_reason() -> None:
    veto = Veto("a long statement runs", retryable=True)
    assert (veto.reason, veto.retryable, str(veto)) == ("a long statement runs", True, "a long statement runs")
    assert not Veto("no").retryable
    assert HoldLost("the session is gone").reason == "the session is gone"
    assert FreezeEnded("the limit passed").reason == "the limit passed"
