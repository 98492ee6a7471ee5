"""Writing bytes to files: nothing here is called from Python."""
