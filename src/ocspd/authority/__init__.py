"""The authority (floor 4): issuing and revoking, CFSSL's HTTP API, remote signers."""
