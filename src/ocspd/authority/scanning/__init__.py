"""What `scan` does: probes of a TLS server, in CFSSL's families, with CFSSL's grades."""
