"""UUIDv7: ids that sort by the time of their making (RFC 9562, section 5.7).

The standard library has it from Python 3.14 on; until then these are our own few lines.
"""

from __future__ import annotations

import os
import time

_VARIANT = "89ab"  # The first two bits are the variant, 10; the other two are drawn.


def uuid7() -> str:
    """A new UUIDv7 in its usual text form, which is a valid subject token."""
    milliseconds = f"{time.time_ns() // 1_000_000:012x}"
    draw = os.urandom(10)
    random = draw.hex()
    variant = _VARIANT[draw[9] & 3]
    return f"{milliseconds[:8]}-{milliseconds[8:12]}-7{random[:3]}-{variant}{random[3:6]}-{random[6:18]}"
