"""What the commands of the theory do; their options are in `theory.arguments`."""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.closed_form.alignment import commutativity, commutativity_price
from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.stability import largest_stable_learning_rate
from theory.closed_form.stationary import stationary_covariance, stationary_variance
from theory.data import load_problem
from theory.judge.evidence import Evidence, plain, provenance
from theory.judge.files import atomic_write, results_folder
from theory.judge.table import aligned
from theory.judge.terminal import remarks, verdict_table, wants_color
from theory.judge.verdict import exit_status
from theory.model.noise import Gaussian, NoiseLaw, Rademacher, StudentT, Uniform
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.lyapunov import METHODS, lyapunov_covariance
from theory.progress import Progress

_NOISE_LAWS: dict[str, NoiseLaw] = {
    "gaussian": Gaussian(),
    "rademacher": Rademacher(),
    "uniform": Uniform(),
    "student": StudentT(),
}


def verify(options: argparse.Namespace) -> int:
    """Judge the register, or part of it, and print the verdict table."""
    from theory.register import register
    from theory.verification import pages_behind, select
    from theory.verification import verify as run

    quiet = options.json
    known = register(options.register)
    chosen = select(known.claims, options.claims)
    if options.until_decided:
        from theory.until_decided import verify_until_decided

        named = options.claims is not None
        verdicts = verify_until_decided(
            chosen, known.experiments, options.out, seed=options.seed, named=named, show=not quiet
        )
    else:
        verdicts = run(
            chosen,
            known.experiments,
            options.out,
            seed=options.seed,
            budget=options.budget,
            registered=known.claims,
            progress=Progress,
            announce=lambda line: None if quiet else print(line, file=sys.stderr, flush=True),
        )
    status = exit_status(verdicts)
    if options.json:
        print(json.dumps([verdict.to_dict() for verdict in verdicts], indent=1, allow_nan=False, ensure_ascii=False))
    else:
        if options.verbose or options.until_decided:  # that mode judges a part, and says which
            print(remarks(verdicts) + "\n")
        print(verdict_table(verdicts, color=wants_color(sys.stdout)))
        print(f"evidence and verdicts: {options.out}")
    behind = pages_behind(options.out)
    if behind:
        print(f"{' and '.join(behind)} in {options.out} show older verdicts: build the report again.", file=sys.stderr)
    return status


def claims(options: argparse.Namespace) -> int:
    """Print the register."""
    from theory.judge.claim import FAMILY_ALPHA, FAMILY_SIZE, MISS, Kind
    from theory.register import register
    from theory.verification import register_table

    known = register(options.register)
    if options.json:
        fields = ("name", "statement", "source", "kind", "experiments", "assumptions", "num_tests", "detects", "margin")
        rows = [
            {**{name: getattr(claim, name) for name in fields}, "decoys": list(claim.decoys)} for claim in known.claims
        ]
        print(json.dumps(plain(rows), indent=1, ensure_ascii=False))
        return 0
    print(register_table(known.claims, known.experiments))
    used = sum(claim.num_tests for claim in known.claims if claim.kind is not Kind.HYPOTHESIS)
    print(
        f"\nfamily: α = {FAMILY_ALPHA:g} over {FAMILY_SIZE} slots, {used} in use; a decoy off by what a claim detects "
        f"escapes with chance ≤ {MISS:g}"
    )
    return 0


def _quietly(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Numerical warnings of extreme matrices stay out of the terminal: diagnostics and statuses say what is wrong."""

    @functools.wraps(command)
    def run(options: argparse.Namespace) -> int:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return command(options)

    return run


@_quietly
def solve(options: argparse.Namespace) -> int:
    """Stationary law of a user's own matrices, with every oracle's answer beside the closed form's."""
    problem, optimizer = _problem(options)
    if options.out is not None and options.out.exists():
        raise ValueError(f"`--out` must not exist; got {options.out}.")
    solution = stationary_covariance(problem, optimizer)
    state = solution.state()
    if not np.isfinite(state).all():
        raise ValueError("`solve` must have matrices whose stationary law float64 can hold; entries of Σ overflow.")
    frame = eigenbasis(problem)
    gamma = np.diag(frame.noise)
    price = commutativity_price(problem, optimizer)
    measures = commutativity(problem)
    oracles: dict[str, Any] = {}
    for method in METHODS:
        if method == "slycot" and not options.slicot:
            continue
        try:
            answer = lyapunov_covariance(problem, optimizer, method)
        except ValueError as error:
            oracles[method] = {"status": str(error)}
            continue
        row: dict[str, Any] = {"status": str(answer.status), "error_bound": answer.error_bound}
        if answer.value is not None:
            gap = float(np.linalg.norm(answer.state() - state) / np.linalg.norm(state))
            row |= {"difference": gap, "relative_residual": answer.relative_residual}
        oracles[method] = row
    limit = largest_stable_learning_rate(float(frame.curvatures.max()), optimizer)
    result = {
        "dimension": problem.dimension,
        "largest_stable_learning_rate": limit,
        "spectral_radius": solution.spectral_radius,
        "error_bound": solution.error_bound,
        "relative_residual": solution.relative_residual,
        "trace": float(np.trace(_value(solution.value))),
        "curvatures": frame.curvatures.tolist(),
        "noise_variances": gamma.tolist(),
        "stationary_variances": stationary_variance(problem, optimizer).tolist(),
        "commutativity": _fields(measures),
        "commutativity_price": _fields(price),
        "oracles": oracles,
    }
    if options.out is not None:
        _write_arrays(options.out, covariance=solution.value, velocity=solution.velocity, cross=solution.cross)
    if options.json:
        print(json.dumps(_finite(result), indent=1, allow_nan=False, ensure_ascii=False))
        return 0
    print(f"stationary law of momentum SGD, m = {problem.dimension}")
    print(f"  stable: spectral radius {solution.spectral_radius:.9g}; learning rate must stay below {limit:.6g}")
    print(f"  error bound {solution.error_bound:.1e}, residual {solution.relative_residual:.1e}")
    print(f"  tr Σ = {result['trace']:.9g}")
    rows = list(zip(frame.curvatures, gamma, result["stationary_variances"], strict=True))
    shown = rows if len(rows) <= 12 else rows[:6] + rows[-6:]
    _print_columns(("curvature λ", "noise γ", "variance σ²"), [[f"{value:.6g}" for value in row] for row in shown])
    if len(rows) > 12:
        print(f"  (the six flattest and the six sharpest of {len(rows)} directions; --json or --out for all)")
    print("commutativity of H and C")
    named = {**_fields(measures), **_fields(price)}.items()
    numbers = [(name, f"{value:.6g}") for name, value in named if isinstance(value, float)]
    print("\n".join(aligned(numbers, indent="  ")))
    print("oracles against the closed form (relative difference of the state covariance)")
    answers = []
    for method, row in oracles.items():
        difference = f"{row['difference']:.1e}" if "difference" in row else "–"
        bound = f"(bound {row['error_bound']:.0e})" if row.get("error_bound") is not None else ""
        answers.append((method, difference, bound, row["status"]))
    print("\n".join(aligned(answers, right={1}, indent="  ")))
    return 0


def _print_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("\n".join(aligned([head, *rows], right=range(len(head)), indent="  ")))


#: Steps of the longest simulation, and bytes of the largest set of replicas.
MOST_STEPS = 10**9
LARGEST_STATE = 256 * 2**30


@_quietly
def simulate(options: argparse.Namespace) -> int:
    """Monte Carlo of a user's own matrices; writes evidence and prints measured against predicted variances."""
    from theory.claims import CLAIMS
    from theory.judge.claim import digests
    from theory.oracle.simulate import Segment, Simulation
    from theory.oracle.simulate import simulate as run

    problem, optimizer = _problem(options)
    solution = stationary_covariance(problem, optimizer)
    burn_in = options.burn_in
    if burn_in is None:
        # ρ^(2t) ≤ 1e-6; a double root decays as t ρ^t, hence the margin
        burn_in = int(np.ceil(1.3 * np.log(1e-6) / (2 * np.log(max(solution.spectral_radius, 1e-3))))) + 20
    if options.steps + burn_in > MOST_STEPS:
        raise ValueError(
            f"`--steps` and `--burn-in` must add up to at most {MOST_STEPS:,}; got {options.steps + burn_in:.3g}, "
            f"whose records alone take {8 * (options.steps + burn_in) / 2**40:.3g} TiB."
        )
    size = 16 * problem.dimension * options.replicas
    if size > LARGEST_STATE:
        raise ValueError(
            f"`--replicas` must leave a state of at most {LARGEST_STATE / 2**30:.0f} GiB; got {options.replicas}, "
            f"which needs {size / 2**40:.3g} TiB."
        )
    if options.steps < 1 or burn_in < 0 or options.replicas < 2:
        raise ValueError(
            "`simulate` needs --steps >= 1, --burn-in >= 0 and --replicas >= 2; "
            f"got {options.steps}, {burn_in} and {options.replicas}."
        )
    total = burn_in + options.steps
    setting = Simulation(
        problem=problem,
        segments=(Segment(optimizer=optimizer, steps=total),),
        replicas=options.replicas,
        record_times=tuple(range(burn_in + 1, total + 1)),
        pool=True,
        noise=_NOISE_LAWS[options.noise_law],
    )
    with results_folder(options.out):
        started = time.time()
        with Progress("simulate") as progress:
            moments = run(setting, seed=options.seed, progress=progress)
        arrays = {"count": moments.count, "mean": moments.mean, "second": moments.second, "lag": moments.lag}
        evidence = Evidence(
            experiment="simulate",
            setting=setting.to_dict(),
            seed=options.seed,
            measured={"engine": moments.engine, "replicas": options.replicas},
            arrays=arrays,
            provenance=provenance(started, claims=digests(CLAIMS)),
        )
        try:
            path = evidence.write(options.out)
        except FileExistsError as error:
            raise ValueError(f"`--seed` must be new for this setting; {error}") from None
    frame = eigenbasis(problem)
    m = problem.dimension
    measured = np.diag(frame.inward(np.asarray(moments.second[0][:m, :m])))
    predicted = np.diag(frame.inward(_value(solution.value)))
    if options.json:
        rows = {"curvatures": frame.curvatures, "measured": measured, "predicted": predicted, "evidence": str(path)}
        print(json.dumps(plain(rows), indent=1))
        return 0
    rows = [
        (f"{curvature:.6g}", f"{found:.6g}", f"{expected:.6g}", f"{found / expected:.5f}")
        for curvature, found, expected in zip(frame.curvatures, measured, predicted, strict=True)
    ]
    _print_columns(("curvature λ", "measured σ²", "predicted σ²", "ratio"), rows)
    print(f"evidence: {path}")
    return 0


def _problem(options: argparse.Namespace) -> tuple[Quadratic, MomentumSGD]:
    optimizer = MomentumSGD(
        learning_rate=options.learning_rate,
        momentum=options.momentum,
        dampening=options.dampening,
        nesterov=options.nesterov,
        discount=options.discount,
        weight_decay=options.weight_decay,
        form=options.form,
    )
    return load_problem(options.hessian, options.noise), optimizer


def _write_arrays(path: Path, **arrays: NDArray[np.float64] | None) -> None:
    import io

    buffer = io.BytesIO()
    np.savez(buffer, **{name: _value(array) for name, array in arrays.items()})  # pyright: ignore[reportArgumentType]
    atomic_write(path, buffer.getvalue(), overwrite=False)


def _value(array: NDArray[np.float64] | None) -> NDArray[np.float64]:
    if array is None:
        raise ValueError("the closed form gave no covariance.")
    return array


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, or a mapping, or one number, as a dictionary."""
    import dataclasses

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(value) if isinstance(value, dict) else {"value": value}


def _finite(value: Any) -> Any:
    """JSON values with None where a number is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value if isinstance(value, (str, int, bool, type(None))) else _finite(_fields(value))
