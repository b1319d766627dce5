"""Benchmarks: our runtime against a floor on the same server in the same run (`scripts/bench`).

Never part of the tests: a timed test fails on a busy machine and says nothing on a quiet one.
"""
