"""The root of the tree."""

from __future__ import annotations


class CasEventsError(Exception):
    """Root of everything this package raises on purpose."""
