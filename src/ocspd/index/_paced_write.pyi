"""Writing octets to files: nothing here is called from Python."""
