r"""How often the pipeline that judges networks errs, counted over repeats of its controls.

Repeat    A control of `empirical.settings.controls` that must hold, with a root seed of its own: trained, measured,
          branched and judged by the product's commands. 192 replicas for the 768 of the product: cheaper by a third
          or more, and harder to refute a sabotaged law with.
Counted   *Sabotage*: how often each way of getting the law wrong is refuted. *False alarms*: on ridge regression with
          replacement (P2) is exact, so at each record |ln ratio| exceeds its normal quantile at level α in a share α
          of the repeats; and how often a control that holds is refuted.
Rule      A sabotage must be refuted in ≥ 99 of 100 repeats; rejections must lie within the binomial interval of α,
          Bonferroni over the records.

``python -m tests.control_repeats measure --out FOLDER`` measures (about five seconds a repeat of a linear control, half
a minute of an attacked one; what is there is left alone), ``… judge --out FOLDER`` writes the counts.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from empirical.claims.ladder import Ladder
from empirical.commands import controls
from empirical.records import Ensemble, read_records
from empirical.settings.controls import CONTROLS, Control
from theory.judge.statistics import binomial_interval

STORED = Path(__file__).with_suffix(".json")
REPLICAS = 192
#: Seeds of the repeats; controls were declared on seeds 0 to 2 and published at 3.
FIRST_SEED = 1000
HELD = tuple(control for control in CONTROLS if control.must_hold)
#: (P2) is exact there, to rounding.
EXACT = ("control-ridge, η 0.02, replacement", "control-ridge, η 0.1, replacement")
LEVELS = (0.05, 0.01)


def folder(out: Path, control: Control, seed: int) -> Path:
    """Where a repeat's evidence stands."""
    return out / f"{HELD.index(control)}-{control.preset}" / str(seed)


def measure(out: Path, control: Control, seed: int) -> None:
    """Train, measure and branch once; the checkpoints go, the evidence stays."""
    place = folder(out, control, seed)
    if (place / "evidence").exists() and not (place / "controls").exists():
        return
    shutil.rmtree(place, ignore_errors=True)
    args = argparse.Namespace(
        out=place, seed=seed, device="cpu", data_root="data", no_download=True, jobs=1, threads=1, quiet=True,
        resume=True, tensorboard=False,
    )  # fmt: skip
    what = dataclasses.replace(controls.FULL, replicas=REPLICAS)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = controls.prepare(args, [control], what)
    if status:
        raise RuntimeError(f"{control.name}, seed {seed}: status {status}: {said.getvalue()[-500:]}")
    shutil.rmtree(place / "controls")


def judged(out: Path, control: Control, seed: int) -> dict[str, Any]:
    """A repeat's outcomes and, at every record, ln ratio in standard errors."""
    records = read_records(folder(out, control, seed))
    (verdict,) = (verdict for verdict in controls.judged(records) if verdict.claim == "control")
    (item,) = (record for record in records if isinstance(record, Ensemble))
    levels = Ladder.of(item).levels
    ratio = levels["network"].over(levels["(P2)"])
    return {
        "outcome": verdict.outcome.value,
        "sabotages": {decoy.name: decoy.outcome.value for decoy in verdict.decoys},
        "estimate": ratio.estimate.tolist(),
        "error": ratio.error.tolist(),
    }


def rate(hits: int, repeats: int) -> dict[str, Any]:
    """A count with its Clopper-Pearson interval."""
    low, high = binomial_interval(hits, repeats)
    return {"count": hits, "of": repeats, "interval": [round(float(low), 5), round(float(high), 5)]}


def false_alarms(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Rejections of the exact null at each record, beside the counts that the level allows."""
    z = np.abs([np.array(item["estimate"]) / np.array(item["error"]) for item in found])
    repeats, records = z.shape
    table = {}
    for level in LEVELS:
        tail = 0.05 / (2 * records)
        low, high = (int(stats.binom.ppf(q, repeats, level)) for q in (tail, 1 - tail))
        counts = (z > stats.norm.ppf(1 - level / 2)).sum(axis=0).tolist()
        table[f"{level:g}"] = {"rejections": counts, "allowed": [low, high], "of": repeats}
    return table


def counts(out: Path) -> dict[str, Any]:
    """What the repeats under `out` say."""
    document: dict[str, Any] = {"replicas": REPLICAS, "controls": {}}
    for control in HELD:
        seeds = sorted(int(path.parent.name) for path in folder(out, control, 0).parent.glob("*/evidence"))
        found = [judged(out, control, seed) for seed in seeds]
        if not found:
            continue
        names = list(found[0]["sabotages"])
        document["controls"][control.name] = {
            "seeds": [seeds[0], seeds[-1]],
            "outcomes": dict(Counter(item["outcome"] for item in found)),
            "refuted although it holds": rate(sum(item["outcome"] == "refuted" for item in found), len(found)),
            "sabotage refuted": {
                name: rate(sum(item["sabotages"][name] == "refuted" for item in found), len(found)) for name in names
            },
            "mean ln ratio": np.mean([item["estimate"] for item in found], axis=0).round(5).tolist(),
            **({"false alarms": false_alarms(found)} if control.name in EXACT else {}),
        }
    return document


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("measure", "judge"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--exact-repeats", type=int, default=200, help="of controls whose law is exact")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the controls")
    parser.add_argument("--store", type=Path, default=STORED)
    options = parser.parse_args(arguments)
    if options.part == "judge":
        document = counts(options.out)
        options.store.write_text(json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
        print(json.dumps(document["controls"], ensure_ascii=False, indent=1))
        return 0
    chosen = [HELD[number] for number in (range(len(HELD)) if options.only is None else options.only)]
    wanted = {c.name: options.exact_repeats if c.name in EXACT else options.repeats for c in chosen}
    began, done, total = time.monotonic(), 0, sum(wanted.values())
    for number in range(max(wanted.values())):
        for control in chosen:
            if number < wanted[control.name]:
                measure(options.out, control, FIRST_SEED + number)
                done += 1
                left = (time.monotonic() - began) / done * (total - done)
                print(f"{done} of {total}, {left / 60:.0f} min left", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
