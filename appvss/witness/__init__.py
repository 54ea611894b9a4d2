"""The witness: looks at the paths that apps declare while they are held, and says whether they have changed."""

from appvss.witness.witness import Witness

__all__ = ["Witness"]
