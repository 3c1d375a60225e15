"""Files that are whole or absent, and folders with one writer at a time.

Writing   `atomic_write` puts bytes under a temporary name, flushes them, and renames or links: a killed run leaves the
          old file or the new one. A link is followed, so that the file it names is replaced and not the link. What is
          not a regular file (a device, a FIFO, this process's own output) is written to, never replaced.
Holding   `hold` locks a folder for as long as its process lives: the lock belongs to an open file (``flock``), which
          the system closes for a killed process too. Its file says who holds it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no flock, and no lock
    fcntl = None

#: Name of a folder's lock file.
LOCK = ".lock"
#: Ending of a file's temporary name.
PARTIAL = ".partial"


class FolderInUseError(ValueError):
    """Another process writes to the folder."""


def atomic_write(path: str | Path, content: bytes, *, overwrite: bool) -> None:
    """Put `content` at `path` whole or not at all, where `path` can be replaced; write it there where it cannot.

    Args:
        path: a file, new or old; a link, which is followed; or a device or FIFO, which is written to.
        content: all of it.
        overwrite: whether a file that exists may be replaced.

    Raises:
        FileExistsError: if `path` exists and `overwrite` is False.
        OSError: if the disk is full or the folder is read-only; the temporary file is removed.
    """
    path = Path(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        status = None
    if status is not None and not overwrite:
        raise FileExistsError(17, "file exists already", str(path))
    if status is not None and _write_through(path, status, content):
        return
    target = Path(os.path.realpath(path))
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=PARTIAL)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644 if status is None else stat.S_IMODE(status.st_mode))
        if overwrite:
            os.replace(temporary, target)
        else:
            os.link(temporary, target)  # unlike rename, refuses an existing name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def remove_partials(folder: Path, name: str = "") -> None:
    """Delete the temporary files that killed writers left in `folder`, of files whose names begin with `name`.

    For their one writer: another's file that is being written would go too.
    """
    for path in folder.glob(f".{name}*{PARTIAL}"):
        path.unlink(missing_ok=True)


def _write_through(path: Path, status: os.stat_result, content: bytes) -> bool:
    """Write to `path` itself if it must not be replaced; whether it was one of those."""
    for stream in (sys.stdout, sys.stderr):
        # `--junit /dev/stdout > log` names a regular file that other lines go to: append to the open one.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            descriptor = stream.fileno()
            if os.path.samestat(status, os.fstat(descriptor)) and not stat.S_ISDIR(status.st_mode):
                stream.flush()
                rest = memoryview(content)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                return True
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return False  # a folder is refused by the rename
    with path.open("wb", buffering=0) as stream:
        rest = memoryview(content)
        while rest:
            rest = rest[stream.write(rest) :]
    return True


def require_regular(path: Path, where: str) -> int:
    """Size in bytes of a regular file: what else there is would hang (a FIFO) or never end (a device).

    Raises:
        ValueError: in one line that begins with `where`.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"{where} must be a readable file; {reason}.") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, FIFO or socket"
        raise ValueError(f"{where} must be a regular file; it is {kind}.")
    return status.st_size


@contextlib.contextmanager
def hold(folder: Path) -> Generator[None, None, None]:
    """Be the one writer of `folder`, which exists, while the block runs; what a killed writer left in it goes.

    Raises:
        FolderInUseError: if another process, or another block of this one, holds it; says which.
        OSError: if the lock file cannot be made.
    """
    path = folder / LOCK
    with contextlib.ExitStack() as stack:
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            stream = stack.enter_context(os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace"))
            try:
                if fcntl is not None:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderInUseError(f"{folder} is being written by {_holder(stream.read())}.") from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    break  # else its last holder took the file away between the two calls
        stack.callback(path.unlink, missing_ok=True)  # while it is still held
        stream.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        json.dump({"pid": os.getpid(), "command": " ".join(sys.argv), "since": started}, stream)
        stream.flush()
        remove_partials(folder)
        yield


def remove_stale_lock(folder: Path) -> None:
    """Delete the lock file that a killed writer left; a lock that is held stays."""
    if (folder / LOCK).exists():
        with contextlib.suppress(FolderInUseError), hold(folder):
            pass


@contextlib.contextmanager
def results_folder(out: Path) -> Generator[None, None, None]:
    """Make `out` a results folder, if it can be one, and be its one writer while the block runs.

    Raises:
        ValueError: if it is a file, holds something else, cannot be written, or another process writes to it.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"`--out` must be a folder; got the file {out}.")
    if out.is_dir() and not (out / "evidence").is_dir() and any(item.name != LOCK for item in out.iterdir()):
        raise ValueError(f"`--out` must be new, empty or a results folder; got {out}, which holds other files.")
    with contextlib.ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(out))
            (out / "evidence").mkdir(exist_ok=True)
            for place in (out / "evidence").iterdir():
                remove_partials(place)
        except OSError as error:
            raise ValueError(f"`--out` must be writable; got {out}: {error.strerror}.") from None
        yield


def _holder(text: str) -> str:
    try:
        held = json.loads(text)
        return f"process {held['pid']} ({held['command']}) since {held['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
