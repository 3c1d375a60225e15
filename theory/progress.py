"""A progress line on a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

#: Work shorter than this many seconds shows nothing.
QUIET_SECONDS = 2.0


class Progress:
    """Context manager that draws ``label [████    ] 42 % 3 s left`` on one line of a terminal.

    Call it with the fraction done. It is quiet when the stream is not a terminal, and for the first two seconds.
    """

    def __init__(self, label: str, *, stream: TextIO | None = None, enabled: bool = True) -> None:
        self.label = label
        self.stream = sys.stderr if stream is None else stream
        self.enabled = enabled and self.stream.isatty()
        self.started = time.monotonic()
        self.drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __call__(self, fraction: float) -> None:
        """Show that `fraction` of the work, in [0, 1], is done."""
        now = time.monotonic()
        if not self.enabled or now - self.started < QUIET_SECONDS or now - self.drawn < 0.1:
            return
        self.drawn = now
        fraction = min(max(fraction, 0.0), 1.0)
        left = (now - self.started) * (1 - fraction) / fraction if fraction > 0 else float("nan")
        bar = ("█" * round(24 * fraction)).ljust(24)
        remaining = "" if left != left else f" {left:.0f} s left"
        self.stream.write(f"\r\x1b[K{self.label} [{bar}] {100 * fraction:3.0f} %{remaining}")
        self.stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.enabled and self.drawn:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
