"""The bounds of PROTOCOL and DESIGN, and the rate limit of a task's telemetry as a pure function of time."""

from __future__ import annotations

from dataclasses import dataclass, fields

CLAIM_CHECK_BYTES = 256 * 1024  # a larger `data` member becomes a claim check (PROTOCOL section 3)
ERROR_MESSAGE_BYTES = 8 * 1024
TRACEBACK_BYTES = 32 * 1024
LOG_LINE_BYTES = 64 * 1024
JSON_DEPTH_MAX = 128
CLAIM_BYTES_MAX = 64 * 1024 * 1024  # the largest input or output that travels by claim check

PROGRESS_PER_S = 100.0
PROGRESS_BURST = 10.0
LOG_BURST = 1_000.0
LOG_PER_S = 500.0
TELEMETRY_BYTES_BURST = 8.0 * 1024 * 1024
TELEMETRY_BYTES_PER_S = 4.0 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryLimits:
    """What one task may emit, and how large its input and its outputs may be; a runner is given one for all its tasks.

    A burst is what may come at once after a quiet time; the rate is what may come from then on.

    Attributes:
        progress_per_s: progress events a second and task, after coalescing.
        progress_burst: progress events at once.
        log_per_s: log lines a second and task; what is over is dropped, counted and said.
        log_burst: log lines at once.
        bytes_per_s: bytes of telemetry a second and task.
        bytes_burst: bytes of telemetry at once.
        claim_bytes_max: the largest input, output or partial output that travels by claim check; at most
            `CLAIM_BYTES_MAX`, since clients read no more.

    Raises:
        ValueError: a limit is not above 0, a burst admits not even one event, or claim checks would be too large.
    """

    progress_per_s: float = PROGRESS_PER_S
    progress_burst: float = PROGRESS_BURST
    log_per_s: float = LOG_PER_S
    log_burst: float = LOG_BURST
    bytes_per_s: float = TELEMETRY_BYTES_PER_S
    bytes_burst: float = TELEMETRY_BYTES_BURST
    claim_bytes_max: int = CLAIM_BYTES_MAX

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 1.0 if field.name.endswith("_burst") else 0.0
            value = getattr(self, field.name)
            if not value > 0.0 or value < least:
                raise ValueError(f"{field.name} is {value}; it must be {'1 or more' if least else 'above 0'}")
        if self.claim_bytes_max > CLAIM_BYTES_MAX:
            raise ValueError(
                f"claim_bytes_max is {self.claim_bytes_max}; clients read at most {CLAIM_BYTES_MAX} bytes"
            )


@dataclass(slots=True)
class TokenBucket:
    """A budget that refills at a steady rate.

    Attributes:
        per_s: refill, in tokens per second.
        burst: the most that can be saved up.
        tokens: what is left.
        at_s: when ``tokens`` was true, on the caller's monotonic clock.
    """

    per_s: float
    burst: float
    tokens: float
    at_s: float

    @classmethod
    def full(cls, *, per_s: float, burst: float, now_s: float) -> TokenBucket:
        """A bucket that has its whole burst to give."""
        return cls(per_s=per_s, burst=burst, tokens=burst, at_s=now_s)

    def take(self, cost: float, *, now_s: float) -> bool:
        """Spend ``cost`` tokens if they are there; False spends nothing."""
        self.tokens = min(self.burst, self.tokens + (now_s - self.at_s) * self.per_s)
        self.at_s = now_s
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True

    def wait_s(self, cost: float) -> float:
        """Seconds from the last ``take`` until ``cost`` tokens are there."""
        return max(0.0, (cost - self.tokens) / self.per_s)


def cut_utf8(text: str, limit_bytes: int) -> tuple[str, bool]:
    """The longest prefix of ``text`` within ``limit_bytes`` of UTF-8, and whether something was cut.

    Lone surrogates, which have no UTF-8 form, become question marks.
    """
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit_bytes:
        return encoded.decode(), False
    return encoded[:limit_bytes].decode("utf-8", "ignore"), True
