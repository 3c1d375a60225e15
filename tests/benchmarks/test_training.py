"""Speed of a training iteration on a GPU beside the textbook loop; on a CPU it is the race ``training``."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.benchmarks.iterations import benchmark_iterations  # noqa: E402  (after the skip)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_fast_enough_for_the_published_runs(benchmark):
    """Nine times eager float32, 3.5 times PyTorch's own defaults autotuned, 200 epochs with evaluation in an hour."""
    fast = {"channels_last": True, "autocast": "bfloat16", "compile": True, "cuda_graph": True, "deterministic": False}
    how = {"batch_size": 128, "repeats": 30, "device": "cuda", "fast": fast}
    record = benchmark.pedantic(lambda: benchmark_iterations(**how), rounds=1)
    by_default = benchmark_iterations(**how, textbook_tf32=True)
    benchmark.extra_info.update(record)
    assert record["speedup"] >= 9, record
    assert by_default["speedup"] >= 3.5, by_default
    assert record["awp_overhead"] <= 0.15, record
    minutes = 45 if "H200" in torch.cuda.get_device_name() else 60
    assert record["at_minutes_per_200_epochs"] <= minutes, record
