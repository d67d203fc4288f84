"""The last line of a closed loop, in the format of the program that this one replaces."""

from __future__ import annotations


def summary_line(requests: int, concurrency: int, timeout_s: float, elapsed_s: float) -> str:
    """Return the line, without that program's average, which was the whole time divided by the number of requests."""
    return (
        f"Total of {requests} requests, with max concurrency {concurrency}, and request timeout "
        f"{go_duration(round(timeout_s * 1e9))}, completed in {go_duration(round(elapsed_s * 1e9))}"
    )


def go_duration(ns: int) -> str:
    """Format nanoseconds like Go's `time.Duration.String`: https://pkg.go.dev/time#Duration.String."""
    if ns == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if ns < min(size * 1000, 1_000_000_000):
            return f"{_trimmed(ns, size)}{unit}"
    minutes, rest = divmod(ns, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_trimmed(rest, 1_000_000_000)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _trimmed(ns: int, size: int) -> str:
    """Return ns/size as a decimal without trailing zeros."""
    whole, rest = divmod(ns, size)
    digits = str(rest).rjust(len(str(size)) - 1, "0").rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)
