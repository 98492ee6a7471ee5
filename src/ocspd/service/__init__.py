"""Use cases (layer 4): asynchronous, no HTTP, no SQL."""
