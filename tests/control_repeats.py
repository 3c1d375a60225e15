r"""How often the pipeline that judges networks errs, counted over repeats of its controls.

Run       A control of `empirical.settings.controls` that must hold, with a root seed of its own: trained, measured and
          branched by the product's commands, with `BRANCHED` replicas that share no data order with another run's.
Repeat    Consecutive replicas of a run, as many as `SIZES` asks for: given the checkpoint they are independent.
Counted   *Sabotage*: how often each way of getting the law wrong is refuted, by the outcome that the claim `control`
          gives it. *False alarms*: on ridge regression with replacement (P2) estimates nothing but what reaches the
          tracked directions from outside, so that ln ratio exceeds the normal quantile of level α in a share α of the
          repeats at each record, as far as that estimate goes; and how often the claim refutes.
Rule      A sabotage must be refuted in ≥ 99 of 100 repeats. Rejections must lie within the binomial interval of α,
          Bonferroni over the records.

``python -m tests.control_repeats measure --out FOLDER`` measures, what is there left alone, one process; ``… judge
--out FOLDER`` writes ``counts.json`` and ``report.md`` under ``reports/published/control_repeats``.
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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from empirical.claims.applicability import judged_directions
from empirical.claims.ladder import CONTROL_MARGIN, DECOYS, minibatch_variances
from empirical.claims.spread import Ratio, Spread
from empirical.commands import controls
from empirical.records import Ensemble, read_records
from empirical.settings.controls import CONTROLS, Control
from reports.formatting import listed
from theory.judge.files import atomic_write
from theory.judge.statistics import binomial_interval
from theory.judge.table import markdown_table

STORED = Path(__file__).parents[1] / "reports" / "published" / "control_repeats"
#: Replicas of a run.
BRANCHED = 3072
#: Seeds of the runs; controls were declared on seeds 0 to 2 and published at others below ten.
FIRST_SEED = 1000
HELD = tuple(control for control in CONTROLS if control.must_hold)
#: Nothing but what lies outside the tracked directions is estimated there.
EXACT = ("control-ridge, η 0.02, replacement", "control-ridge, η 0.1, replacement")
#: Runs of each control; the attacked one costs ten times as much as another.
RUNS = dict(zip((control.name for control in HELD), (7, 13, 7, 7, 7, 1), strict=True))
#: Replicas of a repeat, the product's among them.
SIZES = (controls.FULL.replicas, 192)
LEVELS = (0.05, 0.01)
#: Share of the repeats in which a sabotage must be refuted, and repeats that can show it.
NEEDED = 0.99
ENOUGH = 100

Outcome = Literal["within", "outside", "undecided"]
Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repeat:
    """What one repeat says.

    Attributes:
        ratio: replicas over (P2), at every record.
        sabotaged: sabotage to the outcome of the replicas over the law that it makes wrong.
    """

    ratio: Ratio
    sabotaged: Mapping[str, Outcome]


def folder(out: Path, control: Control, seed: int) -> Path:
    """Where a run's evidence stands."""
    return out / f"{HELD.index(control)}-{control.preset}" / str(seed)


def measure(out: Path, control: Control, seed: int, branched: int = BRANCHED) -> None:
    """Train, measure and branch once; the checkpoints go, the evidence stays."""
    place = folder(out, control, seed)
    if (place / "evidence").exists() and not (place / "controls").exists():
        return
    shutil.rmtree(place, ignore_errors=True)
    args = argparse.Namespace(
        out=place, seed=seed, device="cpu", data_root="data", no_download=True, jobs=1, threads=1, quiet=True,
        resume=True, tensorboard=False, wandb=False, gpus=None,
    )  # fmt: skip
    what = dataclasses.replace(controls.FULL, replicas=branched)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = controls.prepare(args, [control], what)
    if status:
        raise RuntimeError(f"{control.name}, seed {seed}: status {status}: {said.getvalue()[-500:]}")
    shutil.rmtree(place / "controls")


def repeats(item: Ensemble, size: int) -> Iterable[Repeat]:
    """A run's replicas, `size` at a time; what does not fill a repeat is left."""
    keep = judged_directions(item)
    laws: dict[str, Array] = {"": minibatch_variances(item)}
    laws |= {name: sabotaged(item) for name, sabotaged in DECOYS.items()}
    for start in range(0, item.positions.shape[1] - size + 1, size):
        seen = Spread.of(item.positions[:, start : start + size], keep)
        ratios = {name: seen.over(Spread.predicted(law, keep, size)) for name, law in laws.items()}
        right = ratios.pop("")
        yield Repeat(ratio=right, sabotaged={name: ratio.outcome(CONTROL_MARGIN) for name, ratio in ratios.items()})


def rate(hits: int, of: int) -> dict[str, Any]:
    """A count with its Clopper-Pearson interval, 95 %."""
    low, high = binomial_interval(hits, of)
    return {"count": hits, "of": of, "interval": [round(float(low), 5), round(float(high), 5)]}


def false_alarms(found: list[Repeat]) -> dict[str, Any]:
    """Rejections of the law at each record, beside the counts that the level allows."""
    z = np.abs([one.ratio.estimate / one.ratio.error for one in found])
    many, records = z.shape
    table = {}
    for level in LEVELS:
        tail = 0.05 / (2 * records)
        low, high = (int(stats.binom.ppf(q, many, level)) for q in (tail, 1 - tail))
        counts = (z > stats.norm.ppf(1 - level / 2)).sum(axis=0).tolist()
        table[f"{level:g}"] = {"rejections": counts, "allowed": [low, high]}
    return table


def counted(found: list[Repeat], *, exact: bool) -> dict[str, Any]:
    """The counts of one control's repeats of one size."""
    many = len(found)
    outcomes = Counter(one.ratio.outcome(CONTROL_MARGIN) for one in found)
    return {
        "repeats": many,
        "within the margin": rate(outcomes["within"], many),
        "refuted although it holds": rate(outcomes["outside"], many),
        "sabotage refuted": {
            name: rate(sum(one.sabotaged[name] == "outside" for one in found), many) for name in DECOYS
        },
        "mean ln ratio": np.mean([one.ratio.estimate for one in found], axis=0).round(5).tolist(),
        **({"false alarms": false_alarms(found)} if exact else {}),
    }


def counts(out: Path) -> dict[str, Any]:
    """What the runs under `out` say."""
    document: dict[str, Any] = {"branched": BRANCHED, "margin": CONTROL_MARGIN, "controls": {}}
    for control in HELD:
        place = folder(out, control, FIRST_SEED).parent
        seeds = sorted(
            int(path.parent.name) for path in place.glob("*/evidence") if not (path.parent / "controls").exists()
        )
        found: dict[int, list[Repeat]] = {size: [] for size in SIZES}
        steps: list[int] = []
        for seed in seeds:
            (item,) = (record for record in read_records(folder(out, control, seed)) if isinstance(record, Ensemble))
            steps = item.steps.tolist()
            for size in SIZES:
                found[size] += repeats(item, size)
        if seeds:
            document["controls"][control.name] = {
                "runs": len(seeds),
                "seeds": [seeds[0], seeds[-1]],
                "steps": steps,
                "sizes": {
                    str(size): counted(some, exact=control.name in EXACT) for size, some in found.items() if some
                },
            }
    return document


def missed(table: Mapping[str, Any]) -> list[str]:
    """Sabotages that a control's repeats of one size refute too seldom."""
    return [name for name, one in table["sabotage refuted"].items() if one["count"] < NEEDED * one["of"]]


def beyond(table: Mapping[str, Any]) -> list[str]:
    """Levels at which repeats of one size reject a law more often than they may, or less."""
    return [
        level
        for level, one in table.get("false alarms", {}).items()
        if not all(one["allowed"][0] <= count <= one["allowed"][1] for count in one["rejections"])
    ]


def percent(interval: list[float]) -> str:
    """An interval of rates as per cent."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def joined(values: Iterable[int]) -> str:
    """Numbers in a cell."""
    return ", ".join(map(str, values))


def told(one: Mapping[str, Any]) -> str:
    """A rate in words."""
    return f"{one['count']} of {one['of']} ({percent(one['interval'])})"


def sentence(document: Mapping[str, Any]) -> str:
    """What the repeats say, for a reader in a hurry: of the size most often repeated, and where the law is seen to err.

    Raises:
        ValueError: if no control was repeated at that size.
    """
    held, size = document["controls"], str(min(SIZES))
    tables = {name: control["sizes"][size] for name, control in held.items() if size in control["sizes"]}
    if not tables:
        raise ValueError(f"a folder of repeats must hold runs of at least {size} replicas; got none.")
    caught = [
        (found["count"] / found["of"], sabotage, name, found)
        for name, table in tables.items()
        for sabotage, found in table["sabotage refuted"].items()
    ]
    _, sabotage, where, least = min(caught, key=lambda one: one[0])
    every = sum(found["count"] == found["of"] for *_, found in caught)
    few = {name: table["repeats"] for name, table in tables.items() if table["repeats"] < ENOUGH}
    rest = f", the least often {sabotage} on {where}, in {told(least)}" if least["count"] < least["of"] else ""
    short = (
        f", though {ENOUGH} were not reached on {listed([f'{name} ({n})' for name, n in few.items()])}" if few else ""
    )
    repeated = sorted(table["repeats"] for table in tables.values())
    wrong = [table["refuted although it holds"] for table in tables.values()]
    within, without = [], []
    for name, control in held.items():
        for count, table in control["sizes"].items():
            if (found := table.get("false alarms", {}).get("0.05")) is not None:
                low, high = found["allowed"]
                words = (
                    f"{min(found['rejections'])} to {max(found['rejections'])} of {table['repeats']} repeats of "
                    f"{count} replicas on {name} (binomial interval {low} to {high})"
                )
                (without if "0.05" in beyond(table) else within).append((words, table))
    alarms = (
        f"; at each record a test of level 5 % rejects it in {listed([words for words, _ in within])}" if within else ""
    )
    seen = "".join(
        f", and too often in {words}: there it is off by up to {100 * max(map(abs, table['mean ln ratio'])):.1f} %, "
        "which so many replicas see"
        for words, table in without
    )
    return (
        f"On fresh seeds, {every} of {len(caught)} pairs of control and sabotage are refuted in every repeat of {size} "
        f"replicas ({repeated[0]} to {repeated[-1]} repeats a control{short}){rest}. A law that holds is refuted in "
        f"{told(rate(sum(one['count'] for one in wrong), sum(one['of'] for one in wrong)))}{alarms}{seen}."
    )


def report(document: Mapping[str, Any]) -> str:
    """The counts as tables, in Markdown."""
    lines = [
        "# Repeats of the controls",
        "",
        "Made by `python -m tests.control_repeats judge`.",
        "",
        sentence(document),
    ]
    for size in SIZES:
        chosen = {name: one for name, one in document["controls"].items() if str(size) in one["sizes"]}
        rows: list[tuple[str, ...]] = [("control", "runs", "repeats", *DECOYS, "refuted although it holds")]
        alarms: list[tuple[str, ...]] = []
        for name, one in chosen.items():
            table = one["sizes"][str(size)]
            cells = [told(table["sabotage refuted"][sabotage]) for sabotage in DECOYS]
            rows.append(
                (name, str(one["runs"]), str(table["repeats"]), *cells, told(table["refuted although it holds"]))
            )
            for level, found in table.get("false alarms", {}).items():
                alarms.append(
                    (name, str(table["repeats"]), f"{100 * float(level):g} %", joined(one["steps"]),
                     joined(found["rejections"]), f"{found['allowed'][0]} to {found['allowed'][1]}",
                     f"{max(table['mean ln ratio'], key=abs):+.4f}")
                )  # fmt: skip
        lines += ["", f"## {size} replicas a repeat", "", "How often each sabotaged law is refuted.", ""]
        lines += markdown_table(rows)
        lines += ["", "Rejections of the law at each record; allowed is the binomial interval, Bonferroni over "
                  "the records.", ""]  # fmt: skip
        lines += markdown_table(
            [
                ("control", "repeats", "level", "steps", "rejections at each", "allowed", "largest mean ln ratio"),
                *alarms,
            ]
        )
        lost = [
            f"{listed(what)} on {name}" for name, one in chosen.items() if (what := missed(one["sizes"][str(size)]))
        ]
        often = [name for name, one in chosen.items() if beyond(one["sizes"][str(size)])]
        lines += ["", f"Refuted in less than 99 of 100 repeats: {'; '.join(lost) or 'none'}. Rejections beyond what is "
                  f"allowed: {listed(often) if often else 'none'}."]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("measure", "judge"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, default=STORED)
    options = parser.parse_args(arguments)
    if options.part == "judge":
        document = counts(options.out)
        try:
            shown = report(document)
        except ValueError as error:
            print(f"control_repeats: `--out` {options.out}: {error}", file=sys.stderr)
            return 2
        options.store.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1)
        atomic_write(options.store / "counts.json", f"{text}\n".encode(), overwrite=True)
        atomic_write(options.store / "report.md", shown.encode(), overwrite=True)
        print(shown)
        return 0
    began = time.monotonic()
    plan = [(control, FIRST_SEED + number) for control in HELD for number in range(RUNS[control.name])]
    # Every control's share of its runs grows evenly, so that what is there is always balanced.
    plan.sort(key=lambda item: (item[1] - FIRST_SEED + 1) / RUNS[item[0].name])
    for done, (control, seed) in enumerate(plan, start=1):
        measure(options.out, control, seed)
        left = (time.monotonic() - began) / done * (len(plan) - done)
        print(f"{done} of {len(plan)}, {left / 60:.0f} min left", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
