"""Whatever is wrong with a folder of results is said in one line, with status 2, and nothing is written."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from reports.__main__ import main
from tests.reports.samples import theory_results, verdict
from theory.judge.files import hold
from theory.judge.front import DISK_FAILED
from theory.judge.verdict import About, Kind, write_verdicts

pytest.importorskip("matplotlib", reason="the page is drawn with matplotlib: install the extra `report`")


def a_missing_folder(out: Path) -> str:
    for path in sorted(out.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    out.rmdir()
    return "must be a folder"


def no_verdicts(out: Path) -> str:
    (out / "verdicts.json").unlink()
    return "verdicts.json"


def an_empty_list_of_verdicts(out: Path) -> str:
    (out / "verdicts.json").write_text('{"schema": 2, "verdicts": []}')
    return "at least one verdict"


def truncated_verdicts(out: Path) -> str:
    path = out / "verdicts.json"
    path.write_bytes(path.read_bytes()[:500])
    return "must hold JSON"


def verdicts_of_an_older_schema(out: Path) -> str:
    (out / "verdicts.json").write_text("[]")
    return "of an older schema"


def verdicts_that_are_no_list(out: Path) -> str:
    (out / "verdicts.json").write_text('{"claim": 1}')
    return "verdicts of schema"


def a_verdict_without_a_field(out: Path) -> str:
    path = out / "verdicts.json"
    verdicts = json.loads(path.read_text(encoding="utf-8"))
    del verdicts["verdicts"][0]["kind"]
    path.write_text(json.dumps(verdicts), encoding="utf-8")
    return "kind"


def a_binary_file_for_verdicts(out: Path) -> str:
    (out / "verdicts.json").write_bytes(b"\x93NUMPY\xff\xfe")
    return "verdicts.json"


def a_verdict_whose_evidence_is_gone(out: Path) -> str:
    next(out.glob("evidence/drop/*.json")).unlink()
    return "transient-interpolation"


def truncated_evidence(out: Path) -> str:
    path = next(out.glob("evidence/drop/*.json"))
    path.write_bytes(path.read_bytes()[:200])
    return path.name


def edited_evidence(out: Path) -> str:
    path = next(out.glob("evidence/drop/*.json"))
    record = json.loads(path.read_text(encoding="utf-8"))
    record["setting"]["replicas"] = 7
    path.write_text(json.dumps(record), encoding="utf-8")
    return "was edited"


def evidence_without_a_field(out: Path) -> str:
    path = next(out.glob("evidence/drop/*.json"))
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["measured"]
    path.write_text(json.dumps(record), encoding="utf-8")
    return "measured"


def evidence_of_another_schema(out: Path) -> str:
    path = next(out.glob("evidence/drop/*.json"))
    record = json.loads(path.read_text(encoding="utf-8"))
    record["schema"] = 99
    path.write_text(json.dumps(record), encoding="utf-8")
    return "must have schema 2; got 99"


def verdicts_of_a_schema_to_come(out: Path) -> str:
    (out / "verdicts.json").write_text('{"schema": 99, "verdicts": []}')
    return "verdicts of schema"


def two_runs_of_one_name(out: Path) -> str:
    path = next(out.glob("evidence/drop/*.json"))
    shutil.copytree(path.parent, out / "evidence" / "again")
    return path.name


def an_empty_folder(out: Path) -> str:
    shutil.rmtree(out)
    out.mkdir()
    return "verdicts.json"


def a_folder_in_the_place_of_the_page(out: Path) -> str:
    (out / "index.html").mkdir()
    return "index.html: Is a directory"


CASES = [
    a_missing_folder,
    no_verdicts,
    an_empty_list_of_verdicts,
    truncated_verdicts,
    verdicts_of_an_older_schema,
    verdicts_that_are_no_list,
    a_verdict_without_a_field,
    a_binary_file_for_verdicts,
    a_verdict_whose_evidence_is_gone,
    truncated_evidence,
    edited_evidence,
    evidence_without_a_field,
    evidence_of_another_schema,
    verdicts_of_a_schema_to_come,
    two_runs_of_one_name,
    an_empty_folder,
    a_folder_in_the_place_of_the_page,
]


@pytest.mark.parametrize("spoil", CASES, ids=lambda spoil: spoil.__name__)
def test_one_line_status_two_and_nothing_written(tmp_path, capsys, spoil):
    out = tmp_path / "out"
    out.mkdir()
    theory_results(out)
    words = spoil(out)
    before = sorted(out.rglob("*"))
    assert main(["build", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("python -m reports ") and captured.err.count("\n") == 1
    assert words in captured.err
    assert sorted(out.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write into a read-only folder")
def test_a_read_only_folder_is_refused(tmp_path, capsys):
    theory_results(tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert main(["build", str(tmp_path)]) == 2
    finally:
        tmp_path.chmod(0o755)
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize("command", ["build", "index"])
def test_a_folder_that_is_being_written_is_neither_read_nor_written(tmp_path, capsys, command):
    """Verdicts and evidence that another process replaces meanwhile would be of two runs."""
    out = tmp_path / "out"
    out.mkdir()
    theory_results(out)
    folder = out if command == "build" else tmp_path
    before = sorted(tmp_path.rglob("*"))
    with hold(folder):
        (out / "verdicts.json").rename(out / "elsewhere")  # the lock comes before the first look
        assert main([command, str(folder)]) == 2
        (out / "elsewhere").rename(out / "verdicts.json")
    assert f"is being written by process {os.getpid()}" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_fills_up_leaves_the_old_report_whole(tmp_path, capsys, monkeypatch):
    theory_results(tmp_path)
    assert main(["build", str(tmp_path)]) == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["build", str(tmp_path)]) == DISK_FAILED
    assert "No space left on device" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("arguments", [[], ["build"], ["compare", "only-one"], ["draw", "x"]])
def test_wrong_usage_is_status_two(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_drawing_and_not_drawing_cannot_both_be_asked_for(tmp_path, capsys):
    assert main(["build", str(tmp_path), "--markdown", "--figures"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_verdicts_on_a_claim_that_nobody_knows_are_shown_and_move_no_answer(tmp_path, capsys):
    out = tmp_path / "results"
    out.mkdir()
    strange = dataclasses.replace(theory_results(out)[0], claim="<i>nobody</i>", statement="<script>x</script>")
    write_verdicts([strange], out)
    assert main(["build", str(out)]) == 0 and main(["index", str(tmp_path)]) == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "&lt;i&gt;nobody&lt;/i&gt;" in page and "<script>x" not in page and "<i>nobody" not in page
    assert "0 were tested here" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_two_subjects_of_one_name_are_both_shown_and_never_compared(tmp_path, capsys):
    twins = [
        verdict("ladder", (), about=About(name="run"), estimate=value, kind=Kind.HYPOTHESIS) for value in (0.1, 0.2)
    ]
    write_verdicts(twins, tmp_path)
    assert main(["build", str(tmp_path), "--markdown"]) == 0
    assert (tmp_path / "report.md").read_text(encoding="utf-8").count("| run | ") >= 2
    capsys.readouterr()
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "twice: ladder on run" in capsys.readouterr().err
