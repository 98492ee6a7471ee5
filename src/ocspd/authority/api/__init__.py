"""CFSSL's HTTP API."""
