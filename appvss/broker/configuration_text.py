"""The options as text: the sample file and the reference page, both drawn from the schema."""

from __future__ import annotations

import textwrap
from typing import Final

from appvss.broker.configuration import Configuration
from appvss.broker.configuration_reader import sections

_WIDTH: Final = 100

_SAMPLE_HEAD: Final = """\
# The configuration of the AppVSS broker. Every line that is commented out shows a built-in value.
# A length of time is a text with its unit: "250ms", "15s", "2m", "1h".
# `appvss config check FILE` reports every problem of a file.
"""

_REFERENCE_HEAD: Final = """\
# Configuration of the broker

One TOML file. The broker reads the file that `appvss broker --config FILE` names; without one it reads
`/usr/local/etc/appvss/broker.toml` on FreeBSD and `/etc/appvss/broker.toml` elsewhere, if that file exists; and without
any file it uses the built-in values below.

- A length of time is a text with its unit: `"250ms"`, `"15s"`, `"2m"`, `"1h"`; parts may be joined, as in `"1m30s"`. A
  bare number is refused.
- A key that does not exist is refused, with the key that was probably meant.
- `appvss config check FILE` reports every problem of a file at once; `appvss config sample` prints all keys.
- `--runtime-directory` on the command line, or `APPVSS_RUNTIME_DIRECTORY` in the environment, goes before
  `broker.runtime_directory`; `--state-directory`, or `APPVSS_STATE_DIRECTORY`, goes before `broker.state_directory`;
  `--device` goes before `sources.freebsd.device`.
- A section in two pairs of brackets, such as `[[apps.policy]]`, may be there many times, once for each rule
  ([policy.md](../policy.md)).

This page is drawn from the broker's own table of options.
"""


def sample() -> str:
    """A configuration file with every option at its built-in value, commented out, with its meaning above it. A section
    that may be there many times is there once, as an example.
    """
    parts = [_SAMPLE_HEAD]
    for section in sections(Configuration):
        parts.append(f"\n{_comment(section.meaning)}\n")
        if section.most:
            parts.append(_comment("An example; none is built in.") + "\n#")
        parts.append(f"{section.heading}\n")
        for entry in section.options:
            parts.append(_comment(f"{entry.meaning} Allowed: {entry.kind.allowed}.") + "\n")
            name = entry.key.rpartition(".")[2]
            parts.append(f"#{name} = {entry.kind.write(entry.example)}\n")
    return "".join(parts)


def _comment(text: str) -> str:
    return textwrap.fill(text.replace("`", ""), _WIDTH, initial_indent="# ", subsequent_indent="# ")


def reference() -> str:
    """The reference page of all options, as Markdown."""
    parts = [_REFERENCE_HEAD]
    for section in sections(Configuration):
        often = f" At most {section.most} of them." if section.most else ""
        parts.append(f"\n## `{section.heading}`\n\n{section.meaning}{often}\n\n")
        parts.append("| key | kind | default | allowed | meaning |\n| --- | --- | --- | --- | --- |\n")
        for entry in section.options:
            name = entry.key.rpartition(".")[2]
            parts.append(
                f"| `{name}` | {entry.kind.name} | {entry.default_text} | {entry.kind.allowed} | {entry.meaning} |\n"
            )
    return "".join(parts)
