"""Files are whole or absent, devices and links stay what they are, and a folder has one writer."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from theory.__main__ import main
from theory.judge import files
from theory.judge.files import (
    LOCK,
    FolderInUseError,
    atomic_write,
    hold,
    remove_stale_lock,
    require_regular,
    results_folder,
)

ROOT = Path(__file__).resolve().parents[3]
FAST = "impulse-response"


def test_a_link_is_followed_and_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to("real")
    atomic_write(tmp_path / "link", b"new", overwrite=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o600, "a file keeps its mode"
    (tmp_path / "dangling").symlink_to("made")
    atomic_write(tmp_path / "dangling", b"made", overwrite=True)
    assert (tmp_path / "dangling").is_symlink() and (tmp_path / "made").read_bytes() == b"made"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "link", "made", "real"]


def test_a_fifo_is_written_to_and_stays_a_fifo(tmp_path):
    fifo, seen = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: seen.append(fifo.read_bytes()), daemon=True)
    reader.start()
    content = b"x" * 300_000  # more than a pipe holds
    atomic_write(fifo, content, overwrite=True)
    reader.join(timeout=30)
    assert seen == [content] and stat.S_ISFIFO(fifo.stat().st_mode)
    with pytest.raises(FileExistsError):
        atomic_write(fifo, b"", overwrite=False)


def test_a_device_is_written_to_and_stays_a_device(tmp_path):
    before = os.stat("/dev/null")
    atomic_write("/dev/null", b"gone", overwrite=True)
    after = os.stat("/dev/null")
    assert stat.S_ISCHR(after.st_mode) and (before.st_ino, before.st_rdev) == (after.st_ino, after.st_rdev)
    if os.access("/dev/full", os.W_OK):
        with pytest.raises(OSError, match="No space"):
            atomic_write("/dev/full", b"content", overwrite=True)


def test_a_name_taken_while_one_writes_is_not_taken_over(tmp_path, monkeypatch):
    make = files.tempfile.mkstemp

    def meanwhile(**options):
        (tmp_path / "x").write_bytes(b"theirs")
        return make(**options)

    monkeypatch.setattr(files.tempfile, "mkstemp", meanwhile)
    with pytest.raises(FileExistsError):
        atomic_write(tmp_path / "x", b"ours", overwrite=False)
    assert (tmp_path / "x").read_bytes() == b"theirs" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        atomic_write(tmp_path / "folder", b"", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("target", ["pipe", "file"])
def test_junit_goes_to_standard_output_and_leaves_the_table_there(tmp_path, target):
    out = tmp_path / "out"
    assert main(["verify", "--claims", FAST, "--out", str(out)]) == 0
    command = [sys.executable, "-m", "theory", "gate", str(out), "--require", FAST, "--junit", "/dev/stdout"]
    if target == "pipe":
        text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout
    else:
        with (tmp_path / "log").open("w") as log:
            subprocess.run(command, cwd=ROOT, stdout=log, check=True, timeout=120)
        text = (tmp_path / "log").read_text()
    assert "<testsuites" in text and "pass" in text and text.index("<testsuites") < text.index("result  check")
    assert os.path.exists("/dev/stdout")


def test_what_is_no_regular_file_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, words in (
        (tmp_path / "fifo", "regular file; it is a device, FIFO or socket"),
        (tmp_path, "regular file; it is a folder"),
        (tmp_path / "none", "readable file; No such file"),
        (Path("a\0b"), "readable file; embedded null"),
    ):
        with pytest.raises(ValueError, match=f"X must be a {words}"):
            require_regular(path, "X")
    (tmp_path / "file").write_bytes(b"123")
    assert require_regular(tmp_path / "file", "X") == 3


HOLDER = """
import sys, time
from pathlib import Path
from theory.judge.files import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_process_at_a_time_writes_a_folder_and_a_killed_one_lets_go(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(out)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    try:
        before = {path: path.read_bytes() for path in out.iterdir()}
        for command in (
            ["verify", "--claims", FAST, "--out", str(out)],
            ["verify", "--claims", "stationary-diagonal", "--until-decided", "--out", str(out)],
            ["regress", "--data", "diabetes", "--out", str(out)],
        ):
            if command[0] == "regress":
                pytest.importorskip("sklearn", reason="bundled tables: install the extra `data`")
            assert main(command) == 2
            shown = capsys.readouterr()
            assert shown.out == "" and shown.err.count("\n") == 1, shown.err
            assert f"is being written by process {holder.pid} (-c {out}) since 20" in shown.err
        assert {path: path.read_bytes() for path in out.iterdir()} == before, "nothing was written"
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert main(["verify", "--claims", FAST, "--out", str(out)]) == 0, "the lock died with its process"


def test_the_lock_is_one_for_all_blocks_of_a_process_too(tmp_path):
    with hold(tmp_path):
        held = json.loads((tmp_path / LOCK).read_text())
        assert held["pid"] == os.getpid() and held["since"].startswith(time.strftime("%Y"))
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()} "), hold(tmp_path):
            pass
    assert not (tmp_path / LOCK).exists(), "a folder is left as it was found"
    (tmp_path / LOCK).write_text("no JSON")
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_folder_with_a_lock_alone_becomes_a_results_folder(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / LOCK).touch()  # killed between the lock and the first folder
    with results_folder(tmp_path / "new"):
        assert (tmp_path / "new" / "evidence").is_dir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds other files"), results_folder(tmp_path / "foreign"):
        pass
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]


def test_the_lock_file_of_a_killed_writer_goes_and_a_held_one_stays(tmp_path):
    (tmp_path / LOCK).write_text("{")
    remove_stale_lock(tmp_path)
    assert not (tmp_path / LOCK).exists()
    with hold(tmp_path):
        remove_stale_lock(tmp_path)
        assert (tmp_path / LOCK).exists()


def test_what_a_killed_writer_left_goes_when_the_folder_is_taken_again(tmp_path):
    folder = tmp_path / "evidence" / "some"
    folder.mkdir(parents=True)
    (folder / "kept.json").write_text("{}")
    for place in (tmp_path, folder):
        (place / ".kept.json.abcdefgh.partial").write_text("{")
    with results_folder(tmp_path):
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [LOCK, "kept.json"]
