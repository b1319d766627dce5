"""JSON merge patch (RFC 7396): what a document becomes by a patch. Pure; neither argument is changed.

An object merges member by member, a null takes a member away, anything else replaces what was there.
"""

from __future__ import annotations

from typing import Any


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply a patch to a document, both plain JSON values (RFC 7396, section 2)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged
