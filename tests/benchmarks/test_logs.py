"""A hundred logs of 200 epochs, from text to verdicts: `pytest tests/benchmarks/test_logs.py --benchmark-only`."""

from __future__ import annotations

import shutil

from empirical.claims import Register
from empirical.claims.logs import CLAIMS
from empirical.commands.verify import judge_all
from empirical.published import import_logs
from tests.empirical.log_writing import text_log, training_run


def test_a_hundred_logs_are_imported_and_judged(benchmark, tmp_path):
    for number in range(100):
        method, seed = ("awp", "at")[number % 2], number // 2
        folder = tmp_path / "logs" / f"cifar10_{method}_{seed}"
        folder.mkdir(parents=True)
        arguments = (
            f"attack='pgd', awp_size={0.01 * (method == 'awp')}, batch_size=128, "
            f"fname='experiments/cifar10_linf/{method}', seed={seed}"
        )
        columns = training_run(epochs=200, decays=(100, 150), seed=number)
        (folder / "output.log").write_text(text_log(columns, arguments=arguments))

    def everything():
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        done = import_logs([tmp_path / "logs"], tmp_path / "out")
        return len(done.written), judge_all(Register(claims=CLAIMS, missing=()), done.evidence)

    written, verdicts = benchmark.pedantic(everything, rounds=2, iterations=1)
    benchmark.extra_info["verdicts"] = len(verdicts)
    assert written == 100 and len(verdicts) > 400
