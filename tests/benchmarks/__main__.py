"""``python -m tests.benchmarks``: how fast a training iteration is, beside the textbook loop. No download.

On a GPU: images/s, TFLOP/s against the floor of 23 forwards (AWP 26), minutes for 200 epochs, peak memory, and the
ratio to the eager textbook loop in float32 with TF32 off and on. On a CPU: the ratio, AWP's extra, and the data
pipeline's share.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from empirical.commands.options import device_name


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Times PreActResNet-18 PGD-10 iterations on generated images: textbook, ours, ours with AWP.",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, help="images a step (default: 128 on a GPU, 16 on a CPU)")
    parser.add_argument("--repeats", type=int, help="timed iterations (default: 30 on a GPU, 3 on a CPU)")
    parser.add_argument("--threads", type=int, help="PyTorch threads on the CPU (default: PyTorch's own)")
    parser.add_argument("--eager", action="store_true", help="no torch.compile on a GPU")
    parser.add_argument("--trace", action="store_true", help="profile a step: where the host waits for the device")
    parser.add_argument("--out", help="write the record to this JSON file (must not exist)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0, or 2 for wrong usage."""
    args = parser().parse_args(arguments)
    try:
        record = measured(args)
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    text = json.dumps(record, indent=1, allow_nan=False)
    print(text)
    if args.out:
        try:
            with Path(args.out).open("x", encoding="utf-8") as stream:
                stream.write(text + "\n")
        except OSError as error:
            print(f"benchmarks: {args.out} cannot be written: {error.strerror}", file=sys.stderr)
            return 2
    return 0


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """The record.

    Raises:
        ValueError: if an argument is out of range, or the device is not there.
    """
    device = device_name(args.device)
    for name in ("batch_size", "repeats", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"`--{name.replace('_', '-')}` must be >= 1; got {value}.")
    import torch

    from tests.benchmarks.iterations import benchmark_iterations, benchmark_pipeline, cifar_shaped, gpu_environment
    from tests.benchmarks.trace import trace_step
    from theory.judge.evidence import provenance

    if args.threads:
        torch.set_num_threads(args.threads)
    started = time.time()
    on_gpu = device != "cpu"
    batch_size = args.batch_size or (128 if on_gpu else 16)
    repeats = args.repeats or (30 if on_gpu else 3)
    fast: dict[str, Any] = {"channels_last": True}
    if on_gpu:
        fast |= {"autocast": "bfloat16", "deterministic": False, "compile": not args.eager, "cuda_graph": True}

    def note(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    runs = {
        "ours": benchmark_iterations(batch_size=batch_size, repeats=repeats, device=device, fast=fast, note=note),
    }
    if on_gpu:
        runs["textbook_with_tf32"] = benchmark_iterations(
            batch_size=batch_size, repeats=repeats, device=device, fast=fast, textbook_tf32=True, note=note
        )
    pipeline = benchmark_pipeline(
        batch_size=batch_size, batches=20, step_seconds=runs["ours"]["median_seconds"]["at"], device=device
    )
    traces = {
        method: trace_step(cifar_shaped(method, batch_size=batch_size, **fast), device=device)
        for method in ("at", "awp")
        if args.trace
    }
    return {
        "environment": gpu_environment(),
        "provenance": provenance(started, device=device),
        "runs": runs,
        "pipeline": pipeline,
        "traces": traces,
    }


if __name__ == "__main__":
    sys.exit(main())
