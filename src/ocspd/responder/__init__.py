"""The responder (floor 4): supervisor, workers, the slow path, the index they serve."""
