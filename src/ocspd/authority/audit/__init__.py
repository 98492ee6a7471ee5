"""The audit log of the authority: who had what issued, revoked or refused, in a chain nobody can edit unseen.

`chain` is the format, `writer` the file, `log` what the API appends to, `reading`, `verify` and `reconcile`
are for auditors.
"""
