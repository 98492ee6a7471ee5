"""Index directories (floor 2): segments, manifests, stores."""
