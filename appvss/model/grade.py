"""What the copy of one app's files is worth (facts/database-quiesce.md section 1)."""

from __future__ import annotations

from enum import StrEnum


class Grade(StrEnum):
    """In the order of worth, the least first."""

    RAW = "raw"
    """An image as after a power cut: no file-system freeze, no hold."""
    FS = "fs"
    """An image as after a kill of everything at one instant: the file systems were frozen, and what the app had in its
    memory is missing."""
    APP = "app"
    """The app held, unbroken, while the copy was taken."""
    APP_VERIFIED = "app-verified"
    """The copy was started, and its marker and its engine's own check were in order (`appvss verify`)."""
