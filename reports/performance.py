"""How fast, as a page: ratios with their intervals, curves with their exponents, counts, all from stored benchmarks.

``nox -s bench`` writes one JSON file a race, a curve and the counts of instructions; nothing is measured here, and
nothing computed but medians of stored times. A race has ours, its peers and floors; a target stands beside its ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from reports.formatting import listed, number
from reports.markdown import put_between
from theory.judge.files import atomic_write
from theory.judge.reading import read_json
from theory.judge.results import Axis, Band, Curve, Profile, Role, Sample
from theory.judge.table import markdown_table

#: What stands around the quoted figures in a Markdown file.
MARKS = ("<!-- performance: spikeshrink report performance -->", "<!-- end of performance -->")
#: Keys that a record of each kind must have.
KEYS = {
    "race": {"title", "ours", "roles", "seconds", "ratios", "errors", "mebibytes", "targets", "turns", "environment"},
    "single": {"title", "ours", "roles", "seconds", "targets", "environment"},
    "curve": {"title", "variable", "sizes", "seconds", "mebibytes", "exponent", "expected", "fitted", "bend", "turns"},
    "instructions": {"counts", "environment"},
    "gate": {"cases"},
}

Record = Mapping[str, Any]


def read_benchmarks(folder: Path) -> dict[str, Record]:
    """Records by name.

    Raises:
        ValueError: if there are none, or one is not as ``nox -s bench`` writes it; names the file.
    """
    found: dict[str, Record] = {}
    for path in sorted(folder.glob("*.json")):
        record = read_json(path, str(path))
        kind = record.get("kind") if isinstance(record, Mapping) else None
        if kind not in KEYS or not KEYS[kind] <= set(record):
            raise ValueError(
                f"{path} must be a benchmark of the kinds {sorted(KEYS)} with all its fields; got {kind!r}."
            )
        found[path.stem] = record
    if not found:
        raise ValueError(f"{folder} must hold benchmarks, as `nox -s bench` writes them; got none.")
    return found


def page(records: Mapping[str, Record], figure: str = "") -> str:
    """The page as Markdown; `figure` is the address of its drawing."""
    of = {kind: {name: one for name, one in records.items() if one["kind"] == kind} for kind in KEYS}
    blocks = [
        "# Performance",
        "Every case runs ours and its peers on the same input, in one process, taking turns. A ratio is a contender's "
        "time over ours in the same turn: the median over turns, with the order statistics that hold it with at least "
        "95 % chance. Times are the process's own, on one thread, unless it says otherwise. Before anything is timed "
        "the answers must agree. `nox -s bench` measures anew; `spikeshrink report performance` makes this page.",
        "## Beside peers and floors",
        _races({**of["race"], **of["single"]}),
        "A floor is work that no program which does this can leave out. Where its ratio is 0.81, ours takes 1 / 0.81 = "
        "1.23 times the floor.",
        "## Errors",
        _errors(of["race"]),
    ]
    if of["curve"]:
        blocks += ["## Curves", _curves(of["curve"])]
        blocks += (
            [f"![Time against size, one panel a curve, with 95 % intervals over the turns]({figure})"] if figure else []
        )
        blocks += [f"- **{one['title']}**: {one['bend']}." for one in of["curve"].values()]
    if of["gate"]:
        blocks += ["## The gate", _gate(of["gate"])]
    if of["instructions"]:
        blocks += ["## Instructions", *(_instructions(one) for one in of["instructions"].values())]
    blocks += ["## Machines", _machines(records)]
    return "\n\n".join(blocks) + "\n"


def quoted(records: Mapping[str, Record]) -> str:
    """One paragraph for a README: the peers of the theory and of training, with their intervals."""
    parts = [
        sentence
        for name, words, contender in (
            ("stationary", "the stationary law of 500 weights takes 1 / {} of SLICOT's time", "SLICOT SB03MD"),
            ("simulation", "simulation 1 / {} of plain NumPy's", "plain NumPy"),
            ("schedule", "a schedule 1 / {} of the dense recursion's", "dense matrices, step by step"),
            ("training", "an adversarial training step 1 / {} of the textbook loop's", "textbook loop"),
        )
        if (sentence := _quote(records.get(name), words, contender))
    ]
    return f"Beside its peers, in turns on one machine ([Performance](docs/performance.md)): {listed(parts)}."


def renew(folder: Path, docs: Path, readme: Path | None) -> list[Path]:
    """Write the page and its figure, and the figures quoted in the README; returns what was written.

    Raises:
        ValueError: if the records cannot be read, or the README lacks the two marks.
        OSError: if a file cannot be written.
    """
    records = read_benchmarks(folder)
    written = [folder / "report.md", docs]
    address = ""
    if curves := [one for one in records.values() if one["kind"] == "curve"]:
        address = "figures/performance.svg"
        written.append(docs.parent / address)
        atomic_write(written[-1], figure(curves).encode(), overwrite=True)
    atomic_write(docs, page(records, address).encode(), overwrite=True)
    atomic_write(written[0], page(records).encode(), overwrite=True)
    if readme is not None:
        put_between(MARKS, quoted(records), readme)
        written.append(readme)
    return written


def figure(curves: Sequence[Record]) -> str:
    """Time against size: measured medians with intervals."""
    from reports.recipes.drawing import draw_grid

    panels = []
    for one in curves:
        seconds = one["seconds"]
        measured = Curve(
            role=Role.MEASURED,
            x=one["sizes"],
            y=[item["median"] for item in seconds],
            low=[item["low"] for item in seconds],
            high=[item["high"] for item in seconds],
            band=Band.INTERVAL,
            over="turns",
        )
        name = f"{one['title']} (over {one['variable']})"
        chart = Profile(
            title="time against size",
            sample=Sample(one["turns"], "turns"),
            x=Axis("size"),
            y=Axis("time", "s"),
            curves=(measured,),
        )
        panels.append((name, chart))
    return draw_grid(panels, title="Time against size").svg


def _round(value: float) -> str:
    return number(value, digits=3)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown_table([head, *rows]))


def _quote(record: Record | None, words: str, contender: str) -> str:
    if record is None:
        return ""
    ratio = record["ratios"][contender]
    return words.format(_round(ratio["median"])) + f" [{_round(ratio['low'])}, {_round(ratio['high'])}]"


def _races(races: Mapping[str, Record]) -> str:
    rows = []
    for one in races.values():
        threads = f", {one['threads']} threads" if one.get("threads", 1) > 1 else ""
        clock = " by the wall's clock" if one.get("clock") == "wall" else ""
        ours = median(one["seconds"][one["ours"]])
        rows.append(
            (
                f"**{one['title']}**{threads}{clock}",
                f"{one['ours']}: {_round(ours)} s",
                "1",
                "",
                _mebibytes(one, one["ours"]),
            )
        )
        for label, role in one["roles"].items():
            if label != one["ours"]:
                shown = f"{role}: {label}" if role != "variant" else label
                rows.append(("", shown, _ratio(one, label), _target(one, label), _mebibytes(one, label)))
    return _table(("what", "who", "time, in ours", "target", "memory, MiB"), rows)


def _ratio(record: Record, label: str) -> str:
    if "ratios" not in record:  # one round: no interval
        return _round(record["seconds"][label][0] / record["seconds"][record["ours"]][0])
    ratio = record["ratios"][label]
    return f"{_round(ratio['median'])} [{_round(ratio['low'])}, {_round(ratio['high'])}]"


def _target(record: Record, label: str) -> str:
    bounds = record["targets"].get(label, {})
    if not bounds:
        return ""
    side, bound = next(iter(bounds.items()))
    value = record["ratios"][label] if "ratios" in record else None
    center = value["median"] if value else record["seconds"][label][0] / record["seconds"][record["ours"]][0]
    low, high = (value["low"], value["high"]) if value else (center, center)
    least = side == "least"
    met = low >= bound if least else high <= bound
    near = center >= bound if least else center <= bound
    words = "met" if met else "median met, interval not" if near else "missed"
    return f"{'≥' if least else '≤'} {_round(bound)}: {words}"


def _mebibytes(record: Record, label: str) -> str:
    value = record.get("mebibytes", {}).get(label)
    return "" if value is None else _round(value)


def _errors(races: Mapping[str, Record]) -> str:
    rows = [
        (one["title"] if not place else "", label, f"{error:.1e}", one["reference"] if not place else "")
        for one in races.values()
        for place, (label, error) in enumerate(one["errors"].items())
    ]
    return _table(("what", "answer", "largest relative error", "against"), rows)


def _curves(curves: Mapping[str, Record]) -> str:
    rows = []
    for one in curves.values():
        exponent, sizes, memory = one["exponent"], one["sizes"], one["mebibytes"]
        rows.append(
            (
                one["title"],
                f"{one['variable']}: {_round(sizes[0])} to {_round(sizes[-1])}",
                f"{_round(one['seconds'][0]['median'])} to {_round(one['seconds'][-1]['median'])}",
                f"{_round(exponent['median'])} [{_round(exponent['low'])}, {_round(exponent['high'])}]",
                f"{_round(one['expected'])}, fitted from {_round(one['fitted'][0])} on",
                f"{_round(memory[0])} to {_round(memory[-1])}" if memory[0] is not None else "",
            )
        )
    return _table(("what", "over", "seconds", "exponent", "expected", "memory, MiB"), rows)


def _gate(gates: Mapping[str, Record]) -> str:
    rows = [
        (
            f"{case['model']}, {_round(case['weights'])} weights, {_round(case['images'])} images",
            f"{case['k']}",
            f"{_round(case['seconds'])} of {_round(case['budget'])}",
            _round(case["epochs_of_gradients"]),
            _round(case["mebibytes_peak"] - case["mebibytes_before"]),
        )
        for one in gates.values()
        for case in one["cases"]
    ]
    return _table(
        ("model", "directions k", "seconds, of the budget", "in epochs of gradients (the floor)", "memory, MiB"), rows
    )


def _instructions(record: Record) -> str:
    table = _table(("kernel", "instructions"), [(name, f"{count:,}") for name, count in record["counts"].items()])
    versions = ", ".join(f"{name} {version}" for name, version in record["environment"].items())
    return (
        "What six kernels take under callgrind, which repeats to a few parts in ten thousand; CI fails where one takes "
        f"3 % more (`python -m tests.benchmarks.instructions`).\n\n{table}\n\nOf {versions}."
    )


def _machines(records: Mapping[str, Record]) -> str:
    by_machine: dict[str, list[str]] = {}
    for name, record in records.items():
        by_machine.setdefault(_machine(record.get("environment", {})), []).append(name)
    lines = []
    for machine, names in by_machine.items():
        loads = [load for name in names if (load := records[name].get("environment", {}).get("load")) is not None]
        busy = f"; load average {_round(min(loads))} to {_round(max(loads))}" if loads else ""
        lines.append(f"- {machine}{busy}: {listed(names)}.")
    return "\n".join(lines)


def _machine(environment: Mapping[str, Any]) -> str:
    versions = environment.get("versions") or {
        name: value for name, value in environment.items() if isinstance(value, str)
    }
    facts = [
        environment.get("processor", ""),
        f"{environment['cores']} cores" if "cores" in environment else "",
        environment.get("platform", ""),
        "; ".join(environment.get("blas", ())) if not isinstance(environment.get("blas"), str) else "",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    return ", ".join(fact for fact in facts if fact) or "not recorded"
