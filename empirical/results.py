"""A results folder and its writers.

Each training run has a lock of its own (``runs/<run>/.lock``), so that several can share a folder. Everything else, the
other evidence, the verdicts and what a measurement keeps for its next step, has one writer at a time: the holder of
``<out>/.lock``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from theory.judge.files import hold, remove_partials

__all__ = ["hold_results", "make_results_folder"]

#: Evidence guarded by the lock of the run that it is of.
OF_RUNS = "training"


def make_results_folder(out: str | Path) -> None:
    """Make `out` if need be.

    Raises:
        ValueError: if it cannot be a folder.
    """
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"the results folder must be one that can be written; got {out}: {reason}.") from None


@contextlib.contextmanager
def hold_results(out: str | Path) -> Iterator[None]:
    """Make `out` if need be, and be the one writer of what is not a training run's while the block runs.

    Raises:
        ValueError: if it cannot be a folder that is written, or another process holds it (`FolderInUseError`, saying
            which).
    """
    out = Path(out)
    make_results_folder(out)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(out))
            for place in (out / "measuring", *(out / "evidence").glob("*")):
                if place.name != OF_RUNS:
                    remove_partials(place)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(f"the results folder must be one that can be written; got {out}: {reason}.") from None
        yield
