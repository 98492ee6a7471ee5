"""Opening a segment: its file comes into memory, and its tables are checked. For `_index` alone."""

READ_BYTES: int
"""Segments up to this size are read into memory of the process, larger ones are mapped."""
