"""Tamper evidence: signed heads over the log, bundles for auditors, and their check. See docs/audit.md."""
