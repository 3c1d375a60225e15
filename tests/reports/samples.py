"""Results folders for the tests: every kind of claim, outcome, figure and table, written as a real run writes them."""

from __future__ import annotations

import math
from pathlib import Path

from theory.judge.evidence import Evidence
from theory.judge.results import EXACT, Axis, Band, Curve, HeatMap, Profile, Role, Sample, Table, TimeCourse
from theory.judge.verdict import About, DecoyVerdict, Kind, Outcome, Verdict, write_verdicts

PROVENANCE = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "versions": {"python": "3.12.1", "numpy": "2.1.0"},
    "platform": "Linux-6.1",
    "machine": "x86_64",
    "cores": 2,
    "device": "cpu",
    "start": "2026-01-02T03:04:05+00:00",
    "seconds": 12.345,
}


def run(experiment: str, seed: int = 0, **setting) -> Evidence:
    plain = {
        "type": "Simulation",
        "problem": {"type": "Quadratic", "hessian": {"array": [0.1 * i for i in range(1, 9)]}},
        "replicas": 20_000,
        "segments": [{"type": "Segment", "steps": 1300}],
        **setting,
    }
    return Evidence(experiment=experiment, setting=plain, seed=seed, measured={"x": 1.0}, provenance=PROVENANCE)


def lines_and_points() -> Profile:
    x = tuple(10 ** (-3 + 0.23 * i) for i in range(16))
    exact = tuple(a * 1.9 / (2 * (3.8 - a)) for a in x)
    return Profile(
        title="Variance along each eigenvector",
        sample=Sample(20_000, "replicas"),
        x=Axis("ηλᵢ"),
        y=Axis("σᵢ² λᵢ / (η γᵢ)"),
        caption="Prediction <exact> & simulation; the decoy drops the factor 1/(1+μ).",
        curves=(
            Curve(role=Role.PREDICTED, x=x, y=exact, by="(S1)"),
            Curve(
                role=Role.MEASURED,
                x=x,
                y=tuple(1.01 * y for y in exact),
                low=tuple(0.9 * y for y in exact),
                high=tuple(1.1 * y for y in exact),
                band=Band.FAMILY,
            ),
            Curve(role=Role.DECOY, x=x, y=tuple(0.8 * y for y in exact), by="continuous time"),
        ),
    )


def band_and_decays(name: str = "AT, seed 0", shift: float = 0.0) -> TimeCourse:
    x = tuple(float(epoch) for epoch in range(1, 201))
    y = tuple(1.5 + shift - 0.3 * (epoch > 100) + 0.002 * max(epoch - 105, 0) + 0.02 * math.sin(epoch) for epoch in x)
    low, high = tuple(v - 0.1 for v in y), tuple(v + 0.1 for v in y)
    train = tuple(v - 0.2 - 0.002 * t for t, v in zip(x, y, strict=True))
    return TimeCourse(
        title=f"Robust loss, {name}",
        sample=Sample(1, "run"),
        x=Axis("time", "epochs"),
        y=Axis("robust cross-entropy", "nats"),
        decays=(100.0, 150.0),
        curves=(
            Curve(role=Role.MEASURED, subject="test", x=x, y=y),
            Curve(role=Role.MEASURED, subject="train", x=x, y=train),
            Curve(role=Role.PREDICTED, subject="test", x=x, y=y, low=low, high=high, band=Band.INTERVAL),
        ),
    )


def map_with_contour() -> HeatMap:
    x = tuple(10 ** (-5 + 0.25 * i) for i in range(18))
    y = tuple(0.05 * i for i in range(20))
    cells = tuple(
        tuple(None if b > 0.9 and a < 1e-4 else 3e3 * a * (1 - 0.9 * b) / (1 + a) for a in x) for b in y
    )  # fmt: skip
    return HeatMap(
        title="Where the interpolation holds",
        sample=EXACT,
        x=Axis("η₂λ"),
        y=Axis("μ"),
        value=Axis("relative error"),
        columns=x,
        rows=y,
        cells=cells,
        contour=0.05,
        caption="Grey: no value.",
    )


def decoy(name: str, outcome: Outcome = Outcome.REFUTED) -> DecoyVerdict:
    return DecoyVerdict(name=name, outcome=outcome, estimate=0.0512, interval=(0.049, 0.053), p_value=1e-31)


def verdict(claim: str, evidence: tuple[Evidence, ...], **changes) -> Verdict:
    fields = {
        "claim": claim,
        "statement": "Var wᵢ = η γᵢ (1+μ) / (λᵢ (1−μ)(2(1+μ) − ηλᵢ)), eq. (S1)",
        "source": "arXiv 2410.07719, Theorem 1",
        "kind": Kind.IDENTITY,
        "outcome": Outcome.SUPPORTED,
        "estimate": 0.000412,
        "interval": (-0.0031, 0.0039),
        "tolerance": 0.01,
        "alpha": 1e-10,
        "power": 1 - 1e-6,
        "p_value": 0.23,
        "num_tests": 64,
        "reached": 1.31e6,
        "required": 1.28e6,
        "decoys": (decoy("continuous-time"), decoy("γ × 1.01")),
        "assumptions": ("H and C commute", "|μ| < 1 and 0 < ηλ < 2(1+μ)"),
        "evidence": tuple(item.run_id for item in evidence),
        "note": "",
    }
    return Verdict(**{**fields, **changes})


def theory_results(out: Path) -> tuple[Verdict, ...]:
    """Four claims about quadratics, one of each outcome, with every kind of figure."""
    stationary, drop = run("stationary"), run("drop", seed=7)
    for item in (stationary, drop):
        item.write(out)
    verdicts = (
        verdict("stationary-commuting", (stationary,), results=(lines_and_points(),)),
        verdict(
            "transient-interpolation",
            (drop,),
            kind=Kind.APPROXIMATION,
            outcome=Outcome.INCONCLUSIVE,
            p_value=None,
            power=None,
            reached=None,
            required=None,
            num_tests=1,
            estimate=0.046,
            interval=(0.041, 0.052),
            tolerance=0.05,
            decoys=(decoy("first reading of ρ", Outcome.INCONCLUSIVE),),
            note="the interval straddles the margin at η₂λ = 3e-4 | both readings",
            results=(
                map_with_contour(),
                Table(
                    title="Error by region",
                    columns=("η₂λ", "error", "within 5 %", "remark"),
                    rows=((3e-4, 0.046, True, "a | pipe"), (1e-3, None, False, "two\nlines")),
                    caption="Both readings of ρ.",
                ),
            ),
        ),
        verdict(
            "stability-boundary",
            (stationary, drop),
            outcome=Outcome.REFUTED,
            p_value=None,
            power=None,
            reached=None,
            required=None,
            estimate=3.2e-15,
            interval=(-3.2e-15, 3.2e-15),
            tolerance=1e-16,
            note="rounding of η·λ at the edge",
        ),
        verdict(
            "decay-size",
            (drop,),
            kind=Kind.HYPOTHESIS,
            outcome=Outcome.NOT_APPLICABLE,
            estimate=None,
            interval=(None, None),
            tolerance=0.0,
            p_value=None,
            decoys=(),
            note="every run drops by the same factor",
        ),
    )
    write_verdicts(verdicts, out)
    return verdicts


def empirical_results(out: Path, runs: int = 9) -> tuple[Verdict, ...]:
    """Two claims about networks: one judged on every run, one on every pair of runs."""
    verdicts = []
    logs = [run("log", seed=seed) for seed in range(runs)]
    for seed, item in enumerate(logs):
        item.write(out)
        name = f"cifar10 AT, seed {seed}"
        outcome = (Outcome.SUPPORTED, Outcome.REFUTED, Outcome.NOT_APPLICABLE)[seed % 3]
        verdicts.append(
            verdict(
                "robust-overfitting",
                (item,),
                about=About(name=name),
                kind=Kind.HYPOTHESIS,
                outcome=outcome,
                estimate=0.1 * seed,
                interval=(0.1 * seed - 0.05, 0.1 * seed + 0.05),
                tolerance=0.02,
                p_value=None,
                note="this run only",
                results=(
                    band_and_decays(name, 0.05 * seed),
                    Table(title="Change points", columns=("epoch",), rows=((100 + seed,), (150,))),
                ),
            )
        )
    for seed in range(0, runs - 1, 2):
        pair = (logs[seed], logs[seed + 1])
        name = f"AT against AWP, pair {seed}"
        verdicts.append(
            verdict(
                "awp-tightens-bound",
                pair,
                about=About(name=name),
                kind=Kind.HYPOTHESIS,
                p_value=None,
                tolerance=0.0,
            )
        )
    write_verdicts(verdicts, out)
    return tuple(verdicts)
