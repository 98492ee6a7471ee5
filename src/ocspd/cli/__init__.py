"""The command line (floor 6): one module per family of verbs, Go's flag grammar."""
