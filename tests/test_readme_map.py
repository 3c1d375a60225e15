"""The map in the README fits on a screen and is true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINES = 40


def mapped() -> tuple[list[str], set[str]]:
    """The map's lines, and the paths that they name."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.partition("## Map")[2].partition("```\n")[2].partition("```")[0].splitlines()
    paths, above = set(), ""
    for line in lines:
        names = re.findall(r"(?<![\w./])[\w.]+(?:/|\.py\b)", line)
        inside = line.startswith("  ")
        above = above if inside else names[0]
        for place, name in enumerate(names):
            listed = above == "tests/" and place > 0  # what its line lists lies in it
            paths.add(f"{above if inside or listed else ''}{name}")
    return lines, paths


def tracked_folders() -> set[str]:
    """Folders of the repository, and those of the packages' rooms that hold code."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("this is no checkout")
    files = [Path(name) for name in done.stdout.splitlines()]
    top = {f"{path.parts[0]}/" for path in files if len(path.parts) > 1 and not path.parts[0].startswith(".")}
    packages = {"theory", "empirical", "reports", "spikeshrink"}
    rooms = {
        f"{path.parts[0]}/{path.parts[1]}/"
        for path in files
        if path.suffix == ".py" and len(path.parts) == 3 and path.parts[0] in packages
    }
    return top | rooms


def test_the_map_fits_on_a_screen():
    lines, _ = mapped()
    assert 15 < len(lines) <= LINES and max(map(len, lines)) <= 120


def test_everything_on_the_map_exists():
    _, paths = mapped()
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_every_room_is_on_the_map():
    _, paths = mapped()
    assert tracked_folders() - paths == set()
