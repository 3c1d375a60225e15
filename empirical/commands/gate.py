r"""``spikeshrink gate``: does a training run meet the theory's assumptions? An exit status for somebody's CI.

Of a model    ``--model package.module:factory --data package.module:loader --loss cross_entropy --learning-rate 0.1``,
              the same names in a table ``[tool.spikeshrink.gate]`` of a ``pyproject.toml``, or a Python file with a
              function ``spec()`` that returns the arguments of `empirical.check_assumptions` as a dict.
Of a result   a results folder (its verdicts, and the quantities of the last measured checkpoint of each run) or a
              checkpoint of this project, measured on the spot.
Demands       ``--require "stability<1" --require CLAIM``, or ``require``, ``max`` and ``min`` in the table; without
              any, the rules of `empirical.measure.assumptions`.
Exit status   0 pass, 1 fail, 2 wrong usage or unreadable input, 3 inconclusive, 70 a fault of ours.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empirical.settings.data import DATASETS
from empirical.settings.network import NETWORKS

if TYPE_CHECKING:
    from empirical.measure.assumptions import AssumptionReport
    from empirical.records import Record
    from theory.judge.gate import Quantity, Thresholds
    from theory.judge.verdict import Verdict

NAME = "gate"
#: What a name of the command line or of the table names.
WHERE = {
    "model": "a factory without arguments, or the module itself",
    "data": "a factory of an iterable of batches, or the iterable itself",
    "forward": "(model, batch) to (outputs, targets), of batches that are no pairs",
    "attack": "(model, batch) to the batch trained on",
}
#: Losses by name, of torch.nn.
LOSSES = {
    "cross_entropy": "CrossEntropyLoss",
    "mse": "MSELoss",
    "bce_with_logits": "BCEWithLogitsLoss",
    "smooth_l1": "SmoothL1Loss",
}
#: What describes a model in the table, under the names of `check_assumptions` where they are its arguments.
SPEC = {
    "model": str,
    "data": str,
    "forward": str,
    "attack": str,
    "loss": str,
    "checkpoint": str,
    "learning_rate": float,
    "batch_size": int,
    "momentum": float,
    "weight_decay": float,
    "nesterov": bool,
    "sampling": str,
    "stochastic": str,
    "budget": str,
    "top_k": int,
    "samples": int,
}

DESCRIPTION = "Exits 0 if every demand is met, 1 if one is broken, 3 if the evidence decides neither."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument(
        "paths", nargs="*", metavar="OUT|CHECKPOINT|SPEC.py", help="results folders, checkpoints, a file with spec()"
    )
    for name, text in WHERE.items():
        parser.add_argument(f"--{name}", metavar="MODULE:NAME", help=text)
    parser.add_argument("--loss", help=f"{', '.join(LOSSES)} or MODULE:NAME, one loss a sample")
    parser.add_argument("--checkpoint", metavar="FILE", help="state dict of the model (torch.save or safetensors)")
    parser.add_argument("--config", help="pyproject.toml with [tool.spikeshrink.gate]")
    parser.add_argument(
        "--require", action="append", default=[], metavar="DEMAND", help='a claim, or such as "stability<1"'
    )
    parser.add_argument("--max", action="append", default=[], metavar="NAME=X", help="largest value allowed")
    parser.add_argument("--min", action="append", default=[], metavar="NAME=X", help="smallest value allowed")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit XML")
    parser.add_argument("--summary", metavar="FILE", help="append a Markdown summary")
    parser.add_argument(
        "--learning-rate", type=float, metavar="ETA", help="η of the run (default: what the checkpoint states)"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="of the run (default: what the checkpoint states)")
    parser.add_argument("--momentum", type=float, metavar="MU", help="μ of the run (default: the checkpoint's, or 0)")
    parser.add_argument(
        "--weight-decay", type=float, metavar="DELTA", help="δ of the run, added to every curvature (default: likewise)"
    )
    parser.add_argument("--nesterov", action="store_true", default=None, help="torch's SGD looks ahead")
    parser.add_argument("--sampling", choices=("shuffled", "replacement"), help="how batches are drawn")
    parser.add_argument("--stochastic", choices=("refuse", "freeze", "measure"), help="dropout in train mode")
    parser.add_argument("--budget", help='time allowed, such as "90 s" (default: 2 min)')
    parser.add_argument("--network", choices=NETWORKS, help="architecture of a bare state dict")
    parser.add_argument(
        "--dataset", choices=tuple(DATASETS), default="cifar10", help="data of a bare state dict (default: %(default)s)"
    )
    parser.add_argument(
        "--k", type=int, default=10, metavar="N", help="directions tracked, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", help="training samples measured (default: all, at most 4096)"
    )
    parser.add_argument("--data-root", default="data", help="folder of downloaded archives (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Gate; see the module for the exit status."""
    from theory.judge.gate import GateReport, Thresholds, decide, read_gate

    config = args.config
    if config is None and Path("pyproject.toml").is_file():
        config = "pyproject.toml"
    thresholds, spec = read_gate(config, require=args.require, maximum=args.max, minimum=args.min, spec=SPEC)
    verdicts: list[Verdict] = []
    quantities: list[Quantity] = []
    reports: list[AssumptionReport] = []
    folders = False
    given = {name: getattr(args, name.replace("-", "_")) for name in ("model", "data")}
    if not args.paths:
        reports.append(_of_model(args, spec))
    elif any(given.values()):
        raise ValueError("`gate` takes --model and --data, or folders, checkpoints and a SPEC.py; got both.")
    for path in map(Path, args.paths):
        if path.is_dir():
            found = _from_folder(path)
            verdicts.extend(found[0])
            quantities.extend(found[1])
            folders = True
        elif not path.is_file():
            raise ValueError(f"`gate` needs results folders, checkpoints or a SPEC.py that exist; got {str(path)!r}.")
        else:
            reports.append(_of_file(path) if path.suffix == ".py" else _from_checkpoint(path, args))
    for item in reports:
        quantities.extend(item.quantities)
    if thresholds is None and folders:
        thresholds = Thresholds()  # raises: a folder has no rules of its own
    if thresholds is None:
        report = GateReport(checks=tuple(check for item in reports for check in item.gate.checks))
    else:
        _known(thresholds, {item.name for item in quantities}, {item.claim for item in verdicts})
        report = decide(thresholds, verdicts=verdicts, quantities=quantities)
    report.write(junit=args.junit, summary=args.summary)
    print(report.table())
    for item in reports:
        for note in item.notes:
            print(f"note: {note}")
    return report.status


def _known(thresholds: Thresholds, measured: set[str], judged: set[str]) -> None:
    """Refuse a name that no gate will ever find: it is misspelt."""
    from theory.assumptions import RULES

    names = sorted({*RULES, *measured})
    for name in (*thresholds.maximum, *thresholds.minimum):
        if name not in names:
            raise ValueError(f"`gate` measures no {name!r}; it must be one of {', '.join(names)}.")
    if not set(thresholds.require) <= judged:
        from empirical.claims import collect
        from theory.claims import CLAIMS

        claims = {claim.name for claim in CLAIMS} | {item.claim.name for item in collect().claims} | judged
        for name in thresholds.require:
            if name not in claims:
                close = difflib.get_close_matches(name, claims, 1)
                hint = f"; did you mean {close[0]}" if close else ""
                raise ValueError(f"`--require` must name a registered claim or compare a quantity; got {name!r}{hint}.")


def _of_model(args: argparse.Namespace, spec: dict[str, Any]) -> AssumptionReport:
    """The model that the command line or the table names."""
    from empirical.measure.assumptions import check_assumptions

    values = dict(spec)
    for name in SPEC:
        option = getattr(args, "k" if name == "top_k" else name, None)
        if option is not None and not (name == "top_k" and option == 10 and "top_k" in values):
            values[name] = option
    for name in ("model", "data"):
        if not values.get(name):
            raise ValueError(
                f"`gate` needs --{name} MODULE:NAME (or {name} in [tool.spikeshrink.gate]), or a results folder, a "
                f"checkpoint or a SPEC.py."
            )
    model = _made("model", values.pop("model"))
    if checkpoint := values.pop("checkpoint", None):
        _load(model, checkpoint)
    batches = _made("data", values.pop("data"))
    named = values.pop("loss", None)
    if not named:
        raise ValueError(f"`gate` needs --loss: {', '.join(LOSSES)} or MODULE:NAME.")
    loss = _loss(named)
    for name in ("attack", "forward"):
        if name in values:
            values[name] = _found(name, values[name])
    return check_assumptions(model, loss, batches, **values)


def _of_file(path: Path) -> AssumptionReport:
    """A Python file of the user's, with ``spec()``."""
    import importlib.util
    import inspect

    from empirical.measure.assumptions import check_assumptions

    described = importlib.util.spec_from_file_location(f"spikeshrink_gate_{path.stem}", path)
    assert described is not None and described.loader is not None, "a file that exists has a loader"
    module = importlib.util.module_from_spec(described)
    sys.path.append(str(path.resolve().parent))
    _theirs(f"{path} could not be imported", lambda: described.loader.exec_module(module))  # pyright: ignore[reportOptionalMemberAccess]
    make = getattr(module, "spec", None)
    if not callable(make):
        raise ValueError(f"{path} must define a function spec() that returns the arguments of check_assumptions.")
    values = _theirs(f"spec() of {path} failed", make)
    if not isinstance(values, dict):
        raise ValueError(f"spec() of {path} must return a dict; got {type(values).__name__}.")
    known = list(inspect.signature(check_assumptions).parameters)
    wrong = sorted(set(values) - set(known))
    if wrong or not {"model", "loss", "batches"} <= set(values):
        raise ValueError(f"spec() of {path} must have model, loss, batches, and of {known[3:]}; got {sorted(values)}.")
    return check_assumptions(**values)


def _found(option: str, text: Any) -> Any:
    """What MODULE:NAME names; the working folder is looked into last."""
    import importlib

    module, _, name = str(text).partition(":")
    if not module or not name:
        raise ValueError(f"`--{option}` must be MODULE:NAME; got {str(text)!r}.")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    found = _theirs(
        f"`--{option}` {text!r}: the module {module} could not be imported", lambda: importlib.import_module(module)
    )
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"`--{option}` {text!r}: {module} has no {part}.")
        found = getattr(found, part)
    return found


def _made(option: str, text: Any) -> Any:
    """What a factory returns, or the object itself."""
    import inspect

    from torch import nn

    found = _found(option, text)
    if isinstance(found, nn.Module) or not callable(found) or (option == "data" and hasattr(found, "__iter__")):
        return found
    try:
        needed = [
            p.name
            for p in inspect.signature(found).parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
    except (TypeError, ValueError):
        needed = []
    if needed:
        raise ValueError(f"`--{option}` {text!r} must be callable without arguments; it needs {', '.join(needed)}.")
    return _theirs(f"`--{option}` {text!r} failed", found)


def _theirs(what: str, work: Any) -> Any:
    """Run the user's code: what it raises is wrong input, in one line."""
    try:
        return work()
    except Exception as error:
        raise ValueError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def _loss(named: str) -> Any:
    from torch import nn

    if named in LOSSES:
        return getattr(nn, LOSSES[named])(reduction="none")
    return _found("loss", named)


def _load(model: Any, path: str) -> None:
    """A state dict into a model, without running what may be hidden in the file."""
    from empirical.network.files import load_tensors, read_bytes

    where = f"`--checkpoint` {path!r}"
    content = read_bytes(where, path)
    if Path(path).suffix == ".safetensors":
        try:
            from safetensors.torch import load
        except ModuleNotFoundError:
            raise ValueError(f"{where} needs the package safetensors: pip install safetensors.") from None
        state = _theirs(f"{where} must be a whole file", lambda: load(content))
    else:
        state = load_tensors(where, content)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise ValueError(f"{where} must hold a state dict; got {type(state).__name__}.")
    _theirs(f"{where} must fit the model", lambda: model.load_state_dict(state))


def _from_folder(path: Path) -> tuple[list[Verdict], list[Quantity]]:
    from empirical.records import read_records, records_among
    from theory.judge.verdict import read_judged

    verdicts: Sequence[Verdict] = ()
    records: Sequence[Record] = ()
    if (path / "verdicts.json").exists():
        verdicts, evidence = read_judged(path)
        records = records_among(evidence.values())
    elif (path / "evidence").is_dir():
        records = read_records(path)
    if not verdicts and not records:
        raise ValueError(f"`gate` finds neither verdicts.json nor measured checkpoints in {str(path)!r}.")
    return list(verdicts), _quantities(records)


def _quantities(records: Sequence[Record]) -> list[Quantity]:
    """Of the last measured checkpoint of each run with per-sample noise, and of each expansion study."""
    from empirical.measure.bound import usable_directions
    from empirical.measure.quantities import of_directions, of_expansion, stability
    from empirical.records import Expansion, Spectrum

    found = [
        of_expansion(item.studies.top, note=f"{item.run} epoch {item.epoch}")
        for item in records
        if isinstance(item, Expansion) and item.studies.top is not None
    ]
    last: dict[str, Spectrum] = {}
    for item in records:
        if isinstance(item, Spectrum) and item.units == "samples":
            name = f"{item.run} {item.measurement.batch_norm}"
            if name not in last or last[name].iteration < item.iteration:
                last[name] = item
    for name, item in last.items():
        found.append(stability(item.curvature_samples[:, 0], float(item.curvatures[0]), item.optimizer, note=name))
        keep, count = usable_directions(item), len(item.curvatures)
        if keep.any():
            influences = item.alignment.direction_influences
            found += of_directions(
                item.optimizer,
                curvatures=item.curvatures[keep],
                curvature_samples=item.curvature_samples[:, keep],
                projections=item.projections[:, keep],
                cosines=item.alignment.direction_cosines[:count][keep],
                cosine_influences=None if influences is None else influences[:, :count][:, keep],
                noise_factor=item.noise_factor,
                note=name,
            )
    return found


def _from_checkpoint(path: Path, args: argparse.Namespace) -> AssumptionReport:
    from empirical.data.resident import load_data
    from empirical.measure.assumptions import check_assumptions
    from empirical.measure.foreign import open_checkpoint
    from empirical.measure.objective import measured_samples, training_inputs
    from empirical.settings.measuring import Measurement
    from empirical.training.loss import per_sample_loss

    item = open_checkpoint(
        path,
        network=args.network,
        dataset=args.dataset,
        learning_rate=args.learning_rate,
        batch_size=args.batch_size,
        momentum=0.9 if args.momentum is None else args.momentum,
        weight_decay=5e-4 if args.weight_decay is None else args.weight_decay,
    )
    data = load_data(item.setting.data, root=args.data_root)
    count = measured_samples(data, Measurement(samples=args.samples))
    inputs, labels = training_inputs(item, data, count, batch_norm="eval", seed=0)
    if item.setting.method.objective == "trades":
        raise ValueError(
            "`gate CHECKPOINT` measures cross-entropy objectives; `measure` a TRADES run, gate its folder."
        )
    natural = per_sample_loss(item.setting.method.loss)
    return check_assumptions(
        item.model,
        lambda model, batch: natural(model(batch[0]), batch[1]),
        [(inputs, labels)],
        learning_rate=item.learning_rate,
        batch_size=min(item.setting.batch_size, count),
        sampling="replacement" if item.setting.order == "replacement" else "shuffled",
        momentum=item.setting.optimizer.momentum,
        dampening=item.setting.optimizer.dampening,
        nesterov=item.setting.optimizer.nesterov,
        weight_decay=item.setting.optimizer.weight_decay,
        top_k=args.k,
        stochastic="freeze",
        budget=args.budget or "2 min",
    )
