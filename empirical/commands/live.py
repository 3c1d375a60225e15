"""Live progress: a line that rewrites itself on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from empirical.training.run import Progress

__all__ = ["LiveProgress"]


class LiveProgress:
    """Shows what the runs report: loss, robust accuracy, learning rate, time left.

    Args:
        quiet: show notes only.
        every: seconds between lines where the output is no terminal.
    """

    def __init__(self, *, quiet: bool = False, every: float = 10.0) -> None:
        self.quiet, self.every = quiet, every
        self.terminal = sys.stderr.isatty()
        self.states: dict[str, Progress] = {}
        self.last = 0.0
        self.width = 0

    def __call__(self, label: str, kind: str, payload: Any) -> None:
        """Take a message of `run_jobs`."""
        if kind == "note":
            self.clear()
            print(f"{label}: {payload}", file=sys.stderr, flush=True)
            return
        if kind != "progress" or self.quiet:
            return
        self.states[label] = payload
        finished = payload.iteration == payload.num_iterations
        now = time.monotonic()
        if self.terminal:
            line = "  ".join(short(name, state) for name, state in self.states.items())[:200]
            self.width, pad = len(line), " " * max(self.width - len(line), 0)
            print(f"\r{line}{pad}", end="", file=sys.stderr, flush=True)
        elif finished or now - self.last > self.every:
            self.last = now
            print(short(label, payload), file=sys.stderr, flush=True)
        if finished:
            self.clear()
            self.states.pop(label)
            if self.terminal:
                print(short(label, payload), file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Wipe the live line."""
        if self.terminal and self.width:
            print("\r" + " " * self.width + "\r", end="", file=sys.stderr)
            self.width = 0


def short(label: str, state: Progress) -> str:
    """``at-seed0 epoch 12/120 loss 1.234 robust 45.6 % lr 0.1 left 1:23 on cpu float32``."""
    robust = "–" if state.robust_accuracy is None else f"{100 * state.robust_accuracy:.1f} %"
    minutes, seconds = divmod(round(state.seconds_left), 60)
    return (
        f"{label} epoch {state.epoch + 1}/{state.epochs} loss {state.loss:.3f} robust {robust} "
        f"lr {state.learning_rate:.3g} left {minutes}:{seconds:02d} on {state.place}"
    )
