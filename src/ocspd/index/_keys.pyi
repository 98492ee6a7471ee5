"""The keys of a segment in the making."""

from typing import final

@final
class SlotKeys:
    """Hashes and offsets, a few in memory and the rest in a file without a name; used by `_writer` only."""

    def __init__(self, directory: str) -> None:
        """Make the file in a directory. Raises OSError."""
    def close(self) -> None:
        """Give the file's space back. Idempotent."""
