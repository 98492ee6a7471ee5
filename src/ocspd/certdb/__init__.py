"""CFSSL's certificate database (layer 3) on SQLite and PostgreSQL."""
