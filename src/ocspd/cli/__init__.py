"""The command line (layer 7): one module per family of verbs, Go's flag grammar."""
