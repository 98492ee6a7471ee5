"""Keys, names, requests, certificates and OCSP answers (layer 2): pure; the only importer of cryptography."""
