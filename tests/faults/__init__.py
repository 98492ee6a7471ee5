"""Fault tests: each row of the list of named faults, under the oracle where answers are at stake."""
