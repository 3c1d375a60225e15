"""Worker processes that end with the process that started them, even if that one is killed.

A killed parent runs no ``finally`` and sends no signal, and its workers would go on for hours, writing to a folder that
the next command finds in use. So every worker watches: a thread looks twice a second whether its parent is still the
process it was (POSIX gives an orphan another), and ends the worker at once. What it was writing is whole or absent.
"""

from __future__ import annotations

import os
import signal
import threading
import time

__all__ = ["end_with_parent"]

#: Seconds between looks.
EVERY = 0.5
_WATCH = "end-with-parent"


def end_with_parent(parent: int) -> None:
    """From now on this process ends when the process `parent` does, which started it; said again, it changes nothing.

    Args:
        parent: what `os.getpid` gave there: the parent may be gone before this is called.
    """
    if all(thread.name != _WATCH for thread in threading.enumerate()):
        threading.Thread(target=_watch, args=(parent,), name=_WATCH, daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    os.kill(os.getpid(), signal.SIGKILL)  # as its parent was: nothing may hold it up
