"""`python -m theory regress`, end to end: real tables, a user's CSV, and what it refuses."""

import json

import numpy as np
import pytest

from theory.__main__ import main
from theory.judge.evidence import Evidence
from theory.judge.verdict import read_verdicts


def _table(tmp_path, rows=120, columns=3, seed=0, noise=0.7):
    rng = np.random.default_rng(seed)
    inputs = rng.exponential(size=(rows, columns)) @ rng.normal(size=(columns, columns))
    target = inputs @ rng.normal(size=columns) + noise * rng.normal(size=rows)
    names = [f"x{index}" for index in range(columns)]
    lines = [",".join([*names, "price"])]
    lines += [",".join(repr(float(value)) for value in [*row, one]) for row, one in zip(inputs, target, strict=True)]
    path = tmp_path / "house.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def _regress(tmp_path, capsys, *arguments, out="out"):
    status = main(["regress", *map(str, arguments), "--out", str(tmp_path / out)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_users_table_is_predicted_in_every_direction(tmp_path, capsys):
    path = _table(tmp_path)
    arguments = ("--data", path, "--target", "price", "--batch-size", "2,10", "--replicas", "1024", "--json")
    status, out, err = _regress(tmp_path, capsys, *arguments)
    assert status == 0, err
    result = json.loads(out)
    assert result["rows"] == 120 and result["target"] == "price" and result["columns"] == ["x0", "x1", "x2"]
    assert len(result["cells"]) == 2 + 2 * 2  # two batch sizes; shuffled epochs at mid-epoch and at the end
    for cell in result["cells"]:
        theories = cell["theories"]
        assert len(cell["directions"]) == 3
        if cell["sampling"] == "with-replacement":
            assert theories["C(Σ), white"]["outcome"] == "supported"
            assert {row["outcome"] for row in cell["directions"]} == {"supported"}
        else:
            assert theories["C(Σ), white"]["outcome"] == "refuted"
            assert "shuffling" in cell["gap_closed_by"]
            assert abs(theories["C(Σ), shuffled"]["worst_error"]) < 0.2
    small = result["cells"][0]
    assert small["batch_size"] == 2 and small["theories"]["constant C, white"]["outcome"] == "refuted"
    assert small["gap_closed_by"] == "state dependence"
    # what was measured and judged is on disk, and a second call reads it back instead of running again
    (record,) = (tmp_path / "out" / "evidence" / "regress").glob("*.json")
    assert Evidence.read(record).run_id == result["run_id"]
    names = {verdict.claim for verdict in read_verdicts(tmp_path / "out" / "verdicts.json")}
    assert names == {"minibatch-regression", "minibatch-regression-shuffled"}
    before = record.stat().st_mtime_ns
    status, again, _ = _regress(tmp_path, capsys, *arguments)
    assert status == 0 and json.loads(again)["cells"] == result["cells"] and record.stat().st_mtime_ns == before


@pytest.mark.parametrize("data", ["diabetes", "digits"])
def test_bundled_tables_print_a_table(tmp_path, capsys, data):
    pytest.importorskip("sklearn")
    status, out, err = _regress(
        tmp_path, capsys, "--data", data, "--batch-size", "64", "--ridge", "1", "--replicas", "64",
        "--relaxations", "4", "--sampling", "with-replacement",
    )  # fmt: skip
    assert status == 3, err  # 64 runs are too few to decide, and the command says so
    assert "C(Σ), white" in out and "inconclusive" in out and "curvature" in out


def test_few_runs_are_inconclusive_not_supported(tmp_path, capsys):
    path = _table(tmp_path)
    status, out, _ = _regress(
        tmp_path, capsys, "--data", path, "--target", "price", "--batch-size", "4", "--replicas", "16",
        "--relaxations", "2", "--sampling", "with-replacement", "--json",
    )  # fmt: skip
    assert status == 3
    assert json.loads(out)["cells"][0]["theories"]["C(Σ), white"]["outcome"] == "inconclusive"


def test_fewer_rows_than_columns_need_a_ridge_and_are_told(tmp_path, capsys):
    path = _table(tmp_path, rows=4, columns=6)
    common = ("--data", path, "--target", "price", "--batch-size", "1", "--replicas", "64", "--relaxations", "2")
    status, out, err = _regress(tmp_path, capsys, *common, "--sampling", "with-replacement")
    assert status == 3, err
    assert "4 rows for 6 columns (rank 3): the ridge 0.1 alone makes the optimum unique" in out
    status, _, err = _regress(tmp_path, capsys, *common, "--ridge", "0", out="other")
    assert status == 2 and "`--ridge` must be > 0" in err and "rank 3 of 6" in err


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--target", "cost"), "--target"),
        (("--batch-size", "121"), "`--batch-size` must not exceed the 120 rows"),
        (("--batch-size", "61"), "`--batch-size` must leave two batches an epoch"),
        (("--batch-size", "0"), "`--batch-size` must be an integer >= 1"),
        (("--batch-size", "120", "--sampling", "without-replacement"), "gradient noise"),
        (("--ridge", "-1"), "`--ridge` must be >= 0"),
        (("--learning-rate", "-1"), "`--learning-rate` must be > 0"),
        (("--learning-rate", "100"), "`--learning-rate` must be stable"),
        (("--learning-rate", "1e-9"), "settle within"),
        (("--momentum", "1"), "`--momentum` must be in [0, 1)"),
        (("--sampling", "bootstrap"), "`--sampling` must be one of"),
        (("--replicas", "2"), "`--replicas` must be >= 8"),
        (("--relaxations", "0"), "`--relaxations` must be > 0"),
        (("--encoding", "ebcdic-0"), "--encoding"),
    ],
)
def test_unusable_input_is_one_line_and_exit_status_2(tmp_path, capsys, arguments, match):
    path = _table(tmp_path)
    given = {"--target": "price", "--batch-size": "8"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    flat = [item for pair in given.items() for item in pair]
    status, out, err = _regress(tmp_path, capsys, "--data", path, *flat)
    assert status == 2 and out == "" and match in err and err.count("\n") == 1
    assert not list((tmp_path / "out").glob("evidence/*/*.json")) if (tmp_path / "out").exists() else True


def test_a_perfect_fit_has_no_noise_to_predict(tmp_path, capsys):
    path = _table(tmp_path, noise=0.0)
    status, _, err = _regress(
        tmp_path, capsys, "--data", path, "--target", "price", "--ridge", "0", "--batch-size", "8",
        "--learning-rate", "0.01",
    )  # fmt: skip
    assert status == 2 and "gradient noise" in err
