"""TemplateTable of a segment that is being written: nothing here is called from Python."""

from typing import final

@final
class TemplateTable:
    """Issuer keys and templates, growing; made by `SegmentWriter`."""
