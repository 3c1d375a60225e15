"""Published results are compact, can be rebuilt, and what the README says of them is what the verdicts say."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from empirical.claims import collect
from empirical.commands.verify import judge_all
from empirical.records import RegimeRun
from reports import findings, publish
from reports.__main__ import main
from reports.build import MARKS, published_verdicts, renew_findings
from reports.outline import settings_of
from reports.seen import seen_in
from tests.empirical.record_making import regime_run
from tests.reports.samples import run, theory_results
from theory.judge.evidence import Evidence, read_evidence
from theory.judge.verdict import read_verdicts

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "reports" / "published"


def test_replicates_are_rounded_by_at_most_half_a_bit_and_moments_keep_every_digit():
    rng = np.random.default_rng(0)
    crowd = np.exp(rng.normal(size=(3, 1000)) * 8)
    crowd[0, 0] = np.nan
    arrays = {"square": crowd, "short": crowd[1, :50], "moments": rng.normal(size=(181, 8, 8))}
    before = dataclasses.replace(run("some"), arrays=arrays, nan=frozenset({"square"}))
    after = publish.compact(before)
    assert after.run_id == before.run_id
    known = ~np.isnan(crowd)
    error = np.abs(after.arrays["square"].astype(float)[known] / crowd[known] - 1)
    assert 2.0 ** -(publish.BITS + 2) < error.max() <= 2.0**-publish.BITS
    assert np.isnan(after.arrays["square"][0, 0])
    for name in ("short", "moments"):
        assert np.array_equal(after.arrays[name], arrays[name])
    assert after.provenance["significant_bits"] == {"square": publish.BITS}
    sampled = dataclasses.replace(
        before, arrays={"curvatures": rng.normal(size=(publish.SAMPLES, 8, 8))}, nan=frozenset()
    )
    assert publish.compact(sampled).arrays["curvatures"].dtype == np.float32
    with pytest.raises(ValueError, match="must fit single precision; its largest entry is 1e\\+50"):
        publish.compact(dataclasses.replace(before, arrays={"square": np.full((2, 2000), 1e50)}, nan=frozenset()))


def test_a_run_of_the_map_is_published_small_and_judged_the_same():
    records = [
        regime_run(f"regime {place}", seed, share=0.8, rise=0.1 * place) for place in range(7) for seed in (1, 2)
    ]
    small = []
    for record in records:
        before = record.to_evidence()
        after = publish.compact(before)
        small.append(RegimeRun.from_evidence(after))
        assert small[-1].run_id == record.run_id and small[-1].residuals is None and after.nan <= set(after.arrays)
        assert {array.dtype.name for array in after.arrays.values()} == {"float32", "int64"}
    assert small[0].curvatures == pytest.approx(records[0].curvatures, rel=2.0**-publish.BITS)
    register = collect(("edge",))
    for before, after in zip(judge_all(register, records), judge_all(register, small), strict=True):
        assert after.outcome is before.outcome and after.estimate == pytest.approx(
            before.estimate, abs=2e-3, nan_ok=True
        )


def test_what_is_published_is_read_back_built_and_replaced(tmp_path, capsys):
    results, published = tmp_path / "results", tmp_path / "published"
    verdicts = theory_results(results)
    extra = dataclasses.replace(run("unused", seed=99), arrays={"x": np.arange(5.0)})
    extra.write(results)
    for _ in range(2):
        assert main(["publish", str(results), "theory", "--to", str(published)]) == 0
    back = read_verdicts(published / "theory" / "verdicts.json")
    assert back == tuple(map(publish.shortened, verdicts))
    for before, after in zip(verdicts, back, strict=True):
        assert dataclasses.replace(after, results=()) == dataclasses.replace(before, results=()), "every digit"
        for old, new in zip(before.results, after.results, strict=True):
            for one, other in zip(getattr(old, "curves", ()), getattr(new, "curves", ()), strict=True):
                np.testing.assert_allclose(other.y, one.y, rtol=5 * 10.0**-publish.DIGITS)
    kept = {item.run_id for item in read_evidence(published / "theory")}
    assert kept == {name for one in verdicts for name in one.evidence}
    assert sorted(path.name for path in published.iterdir()) == ["theory"]
    assert not list(published.rglob("*.html"))
    assert main(["build", "--markdown", str(published / "theory")]) == 0
    assert "MB published in all" in capsys.readouterr().out


def test_too_much_is_refused_and_nothing_changes(tmp_path, monkeypatch):
    results, published = tmp_path / "results", tmp_path / "published"
    theory_results(results)
    publish.publish(results, published, "theory")
    before = {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}
    monkeypatch.setattr(publish, "MOST", publish.size(published) + 100)
    with pytest.raises(ValueError, match=r"must hold at most .* bytes; with 'again' it would hold"):
        publish.publish(results, published, "again")
    assert {path: path.read_bytes() for path in published.rglob("*") if path.is_file()} == before
    for name in ("", "..", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="must be the name of a folder"):
            publish.publish(results, published, name)


def test_numbers_of_others_stay_where_they_are(tmp_path):
    results, published = tmp_path / "results", tmp_path / "published"
    theory_results(results)
    made = publish.publish(results, published, "logs", verdicts_only=True)
    assert not (made / "evidence").exists()
    kinds = {part.kind for one in read_verdicts(made / "verdicts.json") for part in one.results}
    assert kinds <= {"forest"}
    assert "published without" in (made / "report.md").read_text(encoding="utf-8")
    assert main(["build", "--markdown", str(made)]) == 0


def test_everything_published_is_small_and_can_be_read():
    assert publish.size(PUBLISHED) <= publish.MOST
    for name, verdicts in published_verdicts(PUBLISHED).items():
        folder = PUBLISHED / name
        assert (folder / "report.md").stat().st_size <= publish.MOST_REPORT
        assert verdicts
        for path in (folder / "evidence").glob("*/*.json"):
            assert json.loads(path.read_text(encoding="utf-8"))["run_id"] == path.stem
    sample = next(iter(sorted((PUBLISHED / "theory" / "evidence").glob("*/*.json"))))
    assert Evidence.read(sample).provenance["commit"]


def test_the_readme_says_what_the_published_verdicts_say(tmp_path):
    begin, end = MARKS
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split(begin)[1].split(end)[0].strip()
    results = published_verdicts(PUBLISHED)
    assert block == findings.markdown(results, seen_in(PUBLISHED, results)), (
        "spikeshrink report index --readme README.md"
    )
    copy = tmp_path / "README.md"
    copy.write_text(f"above\n{begin}\nold\n{end}\nbelow\n", encoding="utf-8")
    renew_findings(PUBLISHED, copy)
    assert copy.read_text(encoding="utf-8") == f"above\n{begin}\n{block}\n{end}\nbelow\n"
    copy.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="must hold the lines"):
        renew_findings(PUBLISHED, copy)


def test_a_part_of_a_setting_is_told_once_and_an_entry_of_a_list_by_what_differs():
    entries = [{"rate": 0.1, "decay": 0.0}, {"rate": 0.1, "decay": 0.5}, {"rate": 0.2, "decay": 0.5}]
    first = dataclasses.replace(run("one"), setting={"training": {"epochs": 3}, "runs": entries})
    second = dataclasses.replace(run("two"), setting={"training": {"epochs": 3}, "step": 7})
    third = dataclasses.replace(run("two"), setting={"training": {"epochs": 4}, "step": 7})
    (_, one), (_, two), (_, three) = settings_of([first, second, third])
    assert one.splitlines()[:2] == ["training", "  epochs  3"]
    assert [line.split()[0] for line in one.splitlines()[2:]] == [
        "runs[0]",
        "rate",
        "decay",
        "runs[1]",
        "decay",
        "runs[2]",
        "rate",
    ]
    assert f"that of run {first.run_id}" in two and "epochs" not in two and "step  7" in two
    assert "epochs  4" in three
