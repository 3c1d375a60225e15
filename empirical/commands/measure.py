"""``python -m empirical measure RUN|CHECKPOINT…``: curvature, noise, posterior and robust gap as evidence.

Takes result folders (``OUT`` of train), run folders or single checkpoints. What is already measured is skipped, so the
command resumes. Exit status: 0, 2 wrong usage or unreadable input, 1 if something could not be measured (the rest is
written).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

NAME = "measure"


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        NAME,
        help="spectra, gradient noise, commutativity, posterior of trained networks, as evidence",
        description="Measures every checkpoint of the runs given, and the posterior's dynamics around one decay.",
    )
    parser.add_argument("paths", nargs="+", metavar="RUN|CHECKPOINT", help="result folders, runs or checkpoints")
    parser.add_argument("--out", help="where evidence goes (default: the result folder of the first run)")
    parser.add_argument("--k", type=int, default=10, help="eigenpairs tracked (default: %(default)s)")
    parser.add_argument("--samples", type=int, help="training samples measured (default: all, at most 4096)")
    parser.add_argument("--evaluated", type=int, help="samples of each side of the robust gap (default: the test set)")
    parser.add_argument(
        "--batch-norm",
        nargs="+",
        choices=("eval", "train", "frozen-batch"),
        help="modes measured (default: eval and train where the network has batch norm)",
    )
    parser.add_argument("--checkpoints", type=int, metavar="N", help="measure at most N checkpoints a run")
    parser.add_argument("--probes", type=int, default=6, help="probes of the trace estimators (default: %(default)s)")
    parser.add_argument(
        "--groups", type=int, default=20, help="groups of samples behind χ's interval, at least 6; 0 for none"
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: %(default)s")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="residual of the eigenpairs, relative to λ₁")
    parser.add_argument("--chunk", type=int, default=1024, help="samples differentiated at once: bounds the memory")
    parser.add_argument("--layers", action="store_true", help="measure every layer's block too")
    parser.add_argument("--density", type=int, default=0, metavar="STEPS", help="Lanczos steps of spectral densities")
    parser.add_argument("--replicas", type=int, default=256, help="replicas of the ensemble; 0 for no dynamics")
    parser.add_argument("--ensemble-steps", type=int, default=16, help="steps before and after the drop")
    parser.add_argument("--ensembles", choices=("first", "all"), default="first", help="which runs get an ensemble")
    parser.add_argument("--window", type=int, default=200, help="steps of the trajectory; 0 for none")
    parser.add_argument("--seed", type=int, default=0, help="of attack starts, probes, resampling")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--data-root", default="data", help="folder of downloaded archives")
    parser.add_argument("--no-download", action="store_true", help="use the archives that are there")
    parser.add_argument("--jobs", type=int, help="processes (default: one a core on the CPU, one on a GPU)")
    parser.add_argument("--quiet", action="store_true", help="print failures and the summary only")
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure; see the module for the exit status."""
    from empirical.measure.pipeline import run_chains

    began = time.monotonic()
    try:
        chains = planned(args)
    except ValueError as error:
        print(f"measure: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # a device that is asked for and absent
        print(f"measure: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    from empirical.commands.options import available_cores, device_name

    workers = args.jobs or (min(available_cores(), len(chains)) if device_name(args.device) == "cpu" else 1)

    def note(line: str) -> None:
        if not args.quiet:
            print(line, file=sys.stderr, flush=True)

    failures = run_chains(chains, workers=workers, note=note)
    for line in failures:
        print(f"measure: {line}", file=sys.stderr)
    print(
        f"measured {len(chains)} chains in {time.monotonic() - began:.0f} s; evidence under {chains[0].options['out']}"
    )
    return 1 if failures else 0


def planned(args: argparse.Namespace) -> list[Any]:
    """The chains that the arguments ask for, the longest first.

    Raises:
        ValueError: if an argument is out of range, or a path holds no checkpoint.
    """
    from empirical.commands.options import device_name
    from empirical.measure.dynamics import EnsembleSetting
    from empirical.measure.landscape import has_batch_norm
    from empirical.measure.pipeline import Chain, find_checkpoints, thinned
    from empirical.measure.setting import Measurement
    from empirical.training.checkpoint import load_checkpoint

    if args.replicas < 0 or args.window < 0:
        raise ValueError(f"`--replicas` and `--window` must be >= 0; got {args.replicas} and {args.window}.")
    found = find_checkpoints(args.paths)
    device = device_name(args.device)
    out = args.out or str(_result_folder(Path(next(iter(found)))))
    options = {
        "out": out,
        "device": device,
        "data_root": args.data_root,
        "download": not args.no_download,
        "threads": 1 if device == "cpu" else 4,
    }
    checkpoints: list[Chain] = []
    dynamics: list[Chain] = []
    for index, files in enumerate(found.values()):
        first = load_checkpoint(files[-1])
        modes = args.batch_norm or (["eval", "train"] if has_batch_norm(first.model) else ["eval"])
        measurements = tuple(
            Measurement(
                eigenpairs=args.k,
                samples=args.samples,
                batch_norm=mode,
                probes=args.probes,
                groups=args.groups,
                tolerance=args.tolerance,
                dtype=args.dtype,
                chunk=args.chunk,
                layers=args.layers,
                density=args.density,
                evaluated=args.evaluated,
                seed=args.seed,
            ).to_dict()
            for mode in modes
        )
        kept = tuple(str(file) for file in thinned(files, args.checkpoints))
        checkpoints.append(Chain(kind="checkpoints", paths=kept, measurements=measurements, options=options))
        branching = _branching(files, first)
        if not branching or (args.replicas == 0 and args.window == 0):
            continue
        ensemble = None
        if args.replicas and (args.ensembles == "all" or index == 0):
            rates = first.setting.rates()
            decay = _first_decay(first)
            ensemble = EnsembleSetting(
                replicas=args.replicas,
                before=args.ensemble_steps,
                after=args.ensemble_steps,
                factor=float(rates[decay] / rates[decay - 1]),
            ).to_dict()
        frozen = [plain for plain in measurements if plain["batch_norm"] != "train"]
        if not frozen:
            continue
        dynamics.append(
            Chain(
                kind="dynamics",
                paths=tuple(str(file) for file in branching),
                measurements=(frozen[0],),
                options={**options, "ensemble": ensemble, "window": args.window},
            )
        )
    return [*dynamics[:1], *checkpoints, *dynamics[1:]]


def _result_folder(checkpoints: Path) -> Path:
    """OUT of ``OUT/runs/RUN/checkpoints``; the checkpoint's own folder where it lies elsewhere."""
    run = checkpoints.parent
    if checkpoints.name == "checkpoints" and run.parent.name == "runs":
        return run.parent.parent
    return checkpoints


def _first_decay(item: Any) -> int:
    from empirical.training.schedule import decay_iterations

    return decay_iterations(item.setting.rates())[0]


def _branching(files: list[Path], item: Any) -> list[Path]:
    """For each decay the last checkpoint at or before it, in whose stage the learning rate is still the old one."""
    from empirical.training.checkpoint import load_checkpoint
    from empirical.training.schedule import decay_iterations

    at = [(load_checkpoint(file).iteration, file) for file in files]
    found = []
    start = 0
    for decay in decay_iterations(item.setting.rates()):
        inside = [pair for pair in at if start < pair[0] <= decay]
        if inside:
            found.append(max(inside)[1])
        start = decay
    return found
