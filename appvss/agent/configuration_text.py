"""The settings as text: a sample for one adapter, and the reference page of all, both drawn from the schema."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from appvss.adapters import ENGINES
from appvss.agent.configuration import schema_of
from appvss.agent.options import AgentOptions, AppOptions
from appvss.agent.schema import Setting, settings_of
from appvss.model.errors import UsageError

_WIDTH: Final = 100

_SAMPLE_HEAD: Final = """\
# The configuration of the AppVSS agent. Every line that is commented out shows a built-in value or an example.
# A length of time is a text with its unit: "250ms", "15s", "2m", "1h".
# `appvss agent check --config FILE` reports every problem of a file, and looks at the applications.
"""

_REFERENCE_HEAD: Final = """\
# Configuration of the agent

One TOML file: `/etc/appvss/agent.toml`, on FreeBSD `/usr/local/etc/appvss/agent.toml`, or what `--config FILE` names.
How it is used is in [agent.md](../agent.md).

- A length of time is a text with its unit: `"250ms"`, `"15s"`, `"2m"`, `"1h"`; a bare number is refused.
- A key that does not exist is refused, with the key that was probably meant. All problems are reported at once.
- A secret is given by reference and never written here: `{ file = "/etc/appvss/NAME.password" }`,
  `{ environment = "NAME" }`, `{ credential = "NAME" }` (`LoadCredential=` of systemd). It is read anew for each
  connection. A file must be closed to others (`chmod 0600`). An address with a password in it is refused.
- `appvss agent sample postgresql` prints all keys for one adapter.

This page is drawn from the agent's own table of settings.
"""


def sample(adapter: str) -> str:
    """A configuration file for one adapter, every setting at its built-in value, commented out, with its meaning.

    Raises:
        UsageError: there is no such adapter.
    """
    if adapter not in ENGINES:
        meant = difflib.get_close_matches(adapter, ENGINES, n=1)
        hint = f"Did you mean {meant[0]}?" if meant else f"The adapters are {', '.join(ENGINES)}."
        raise UsageError(f"there is no adapter {adapter!r}", hint)
    try:
        schema = schema_of(adapter)
    except ImportError as error:
        raise UsageError(f"this installation has no adapter {adapter!r}", "Install a version that has it.") from error
    parts = [_SAMPLE_HEAD, f"\n{_comment(_meaning(AgentOptions))}\n[agent]\n", *_lines(AgentOptions)]
    parts += [f"\n{_comment(_about(adapter))}\n[apps.{adapter}]\n", f'adapter = "{adapter}"\n']
    parts += ["\n", _comment("Of this adapter:") + "\n", *_lines(schema)]
    parts += ["\n", _comment("Of every app:") + "\n", *_lines(AppOptions, without="adapter")]
    return "".join(parts)


def _lines(schema: type[Any], without: str = "") -> Iterator[str]:
    for each in settings_of(schema):
        if each.name != without:
            mark = "" if each.is_needed or each.in_sample else "#"
            yield _comment(f"{each.meaning} Allowed: {each.kind.allowed}.") + "\n"
            yield f"{mark}{each.name} = {_example(each)}\n"


def _example(each: Setting) -> str:
    if each.example == Path():  # a path that need not be given
        return '"/srv"'
    return '""' if each.example is None else each.kind.write(each.example)


def _comment(text: str) -> str:
    return textwrap.fill(text.replace("`", ""), _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _meaning(thing: Any) -> str:
    """The first paragraph of a docstring, in one line; nothing where the dataclass has none of its own."""
    text = " ".join((thing.__doc__ or "").split("\n\n")[0].split())
    return "" if text.startswith(f"{thing.__name__}(") else text


def _about(adapter: str) -> str:
    return _meaning(schema_of(adapter)) or adapter


def reference() -> str:
    """The reference page of all settings, as Markdown."""
    parts = [_REFERENCE_HEAD, f"\n## `[agent]`\n\n{_meaning(AgentOptions)}\n\n", *_table(AgentOptions)]
    parts += [f"\n## `[apps.NAME]`\n\n{_meaning(AppOptions)} At most 200 of them.\n\n", *_table(AppOptions)]
    for adapter in ENGINES:
        try:
            schema = schema_of(adapter)
        except ImportError:
            continue
        parts += [f'\n## `adapter = "{adapter}"`\n\n{_about(adapter)}\n\n', *_table(schema)]
    return "".join(parts)


def _table(schema: type[Any]) -> Iterator[str]:
    yield "| key | kind | default | allowed | meaning |\n| --- | --- | --- | --- | --- |\n"
    for each in settings_of(schema):
        yield f"| `{each.name}` | {each.kind.name} | {each.default_text} | {each.kind.allowed} | {each.meaning} |\n"
