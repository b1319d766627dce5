"""What one attempt may emit: rates, bytes, large outputs on their way, and the count of what was dropped.

Asked on the thread that emits, before anything is queued for the event loop: nothing holds a thread back, so what it
floods must be refused where it is. The refills are `domain.limits.TokenBucket`'s.
"""

from __future__ import annotations

import threading
import time

from cas_events.domain.limits import TelemetryLimits, TokenBucket

ENVELOPE_BYTES = 400  # what an event costs besides its data


class Budgets:
    """The budgets of one attempt; every method may be called from any thread.

    Args:
        limits: of the runner.

    Attributes:
        uploading_bytes: of large outputs on their way.
    """

    def __init__(self, limits: TelemetryLimits) -> None:
        self._limits = limits
        now_s = time.monotonic()
        self._progress = TokenBucket.full(
            per_s=limits.progress_per_s, burst=limits.progress_burst, now_s=now_s
        )
        self._logs = TokenBucket.full(per_s=limits.log_per_s, burst=limits.log_burst, now_s=now_s)
        self._bytes = TokenBucket.full(per_s=limits.bytes_per_s, burst=limits.bytes_burst, now_s=now_s)
        self._lock = threading.Lock()
        self._dropped = 0
        self.uploading_bytes = 0

    def drop(self) -> None:
        """Count something that was dropped for another reason."""
        with self._lock:
            self._dropped += 1

    def take_dropped(self) -> int:
        """How much was dropped since the last time."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
            return dropped

    @property
    def has_dropped_and_may_say_so(self) -> bool:
        """Whether something was dropped and there is room again for a line that says so."""
        return self._dropped > 0 and self._logs.tokens > 1.0

    def admits(self, data_bytes: int) -> bool:
        """Spend bytes; what they do not allow is counted as dropped."""
        return self._spend(self._bytes, data_bytes + ENVELOPE_BYTES)

    def admits_log(self) -> bool:
        """Spend one line, before it is encoded."""
        return self._spend(self._logs, 1.0)

    def progress_wait_s(self) -> float:
        """Spend one progress event: 0; or how long to wait for one, which spends nothing."""
        with self._lock:
            if self._progress.take(1.0, now_s=time.monotonic()):
                return 0.0
            return max(self._progress.wait_s(1.0), 0.001)

    def admits_output(self, data_bytes: int, blob_bytes: int) -> bool:
        """As `admits`; large outputs have a bound of their own, which always admits one. `uploaded` gives it back."""
        with self._lock:
            others = self.uploading_bytes
            if blob_bytes and others and others + blob_bytes > self._limits.claim_bytes_max:
                self._dropped += 1
                return False
            self.uploading_bytes += blob_bytes
        if self.admits(data_bytes):
            return True
        self.uploaded(blob_bytes)
        return False

    def uploaded(self, blob_bytes: int) -> None:
        """A large output is no longer on its way."""
        with self._lock:
            self.uploading_bytes -= blob_bytes

    def _spend(self, bucket: TokenBucket, cost: float) -> bool:
        with self._lock:
            is_admitted = bucket.take(cost, now_s=time.monotonic())
            self._dropped += not is_admitted
            return is_admitted
