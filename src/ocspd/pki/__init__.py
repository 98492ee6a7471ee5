"""Keys, names, requests, certificates, OCSP (floor 2): pure; the only importer of cryptography."""
