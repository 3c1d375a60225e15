"""From a register of claims to verdicts: run what evidence is missing, judge, and write.

A results folder holds ``evidence/``, ``verdicts.json`` and what the report adds. A run that was stopped goes on from
the evidence already there: a recorded run is recognised by its run-id and not made again. Judging a part of the
register replaces its verdicts and keeps the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from theory.judge.claim import Claim, Experiment, Progress, digests
from theory.judge.evidence import Evidence, provenance, run_id
from theory.judge.files import results_folder
from theory.judge.sources import measuring_code
from theory.judge.verdict import Verdict, read_verdicts, write_verdicts

BUDGETS = ("default", "full")


def gather(
    experiments: Iterable[Experiment],
    out: Path,
    *,
    seed: int,
    budget: str,
    claims: Iterable[Claim] = (),
    progress: Callable[[str], Progress] | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> dict[str, Evidence]:
    """Evidence of every experiment: read back where it is recorded, measured and written where it is not.

    What is measured keeps the digests of all registered claims, and of `claims`, as they are now.

    Raises:
        ValueError: if recorded evidence cannot be read, or was measured by other code than this.
        OSError: if evidence cannot be written.
    """
    from theory.claims import CLAIMS  # the whole register, whatever part of it is judged

    registered = digests(CLAIMS) | digests(claims)
    gathered: dict[str, Evidence] = {}
    for experiment in experiments:
        code = measuring_code(experiment.run)
        setting = experiment.setting(budget)
        plain = setting.to_dict()
        path = out / "evidence" / experiment.name / f"{run_id(experiment.name, plain, seed)}.json"
        if path.exists():
            gathered[experiment.name] = Evidence.read(path)
            if gathered[experiment.name].provenance.get("measuring_code") != code:
                raise ValueError(
                    f"`--out` holds evidence measured by other code; remove {path} or choose a new folder."
                )
            announce(f"{experiment.name}: recorded already")
            continue
        started = time.time()
        measured, arrays = experiment.run(setting, seed, _nothing if progress is None else progress(experiment.name))
        measured = dict(measured)
        evidence = Evidence(
            experiment=experiment.name,
            setting=plain,
            seed=seed,
            measured=measured,
            arrays=dict(arrays),
            provenance=provenance(
                started,
                title=experiment.title,
                budget=budget,
                measuring_code=measuring_code(experiment.run),
                claims=registered,
            ),
        )
        evidence.write(out)
        announce(f"{experiment.name}: {evidence.provenance['seconds']:.1f} s")
        gathered[experiment.name] = evidence
    return gathered


def verify(
    claims: Sequence[Claim],
    experiments: Sequence[Experiment],
    out: Path,
    *,
    seed: int,
    budget: str = "default",
    registered: Iterable[Claim] = (),
    progress: Callable[[str], Progress] | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> tuple[Verdict, ...]:
    """Judge `claims` on the evidence under `out`, making what is missing, and record the verdicts there.

    Args:
        claims: what to judge.
        experiments: the register's, of which those needed are run.
        out: results folder, new or old; verdicts on other claims stay in its ``verdicts.json`` (`record`).
        seed: root seed.
        budget: ``"default"`` or ``"full"``.
        registered: a register beyond the theory's own of which `claims` are a part: evidence keeps its digests too.
        progress: name of an experiment to a listener to the share done.
        announce: told a line an experiment.

    Returns:
        The verdicts on `claims`.

    Raises:
        ValueError: if the budget is unknown, the folder cannot take results, or what it holds cannot be read.
        OSError: if the disk is full.
    """
    if budget not in BUDGETS:
        raise ValueError(f"`verify(budget=...)` must be one of {BUDGETS}; got {budget!r}.")
    needed = {name for claim in claims for name in claim.experiments}
    chosen = [experiment for experiment in experiments if experiment.name in needed]
    with results_folder(out), one_blas_thread():
        kept = recorded(out)
        evidence = gather(
            chosen, out, seed=seed, budget=budget, claims=(*registered, *claims), progress=progress, announce=announce
        )
        verdicts = tuple(claim.judge(evidence) for claim in claims)
        record(verdicts, kept, out, experiments)
    return verdicts


def recorded(out: Path) -> tuple[Verdict, ...]:
    """The verdicts that a results folder holds already.

    Raises:
        ValueError: if they cannot be read: what cannot be read cannot be kept.
    """
    path = out / "verdicts.json"
    if not path.exists():
        return ()
    try:
        return read_verdicts(path)
    except ValueError as error:
        raise ValueError(f"{error} Remove the file, or choose a new folder; evidence is kept.") from None


def record(
    verdicts: Sequence[Verdict], kept: Sequence[Verdict], out: Path, experiments: Iterable[Experiment]
) -> tuple[Verdict, ...]:
    """Write ``verdicts.json``: the new verdicts in the place of those on the same claim and subject, the others kept.

    A kept verdict whose evidence is gone, or was measured by other code than today's, says so (`Verdict.stale`).

    Args:
        verdicts: just judged.
        kept: of `recorded`.
        out: results folder.
        experiments: those whose code is known.
    """
    run = {experiment.name: experiment.run for experiment in experiments}
    reason = functools.cache(functools.partial(_staleness, out, run))
    new = {(verdict.claim, verdict.subject): verdict for verdict in verdicts}
    old = {(verdict.claim, verdict.subject): verdict for verdict in kept}
    merged = []
    for key in dict.fromkeys((*old, *new)):
        if key in new:
            merged.append(new[key])
        else:
            found = (reason(name) for name in old[key].evidence)
            merged.append(dataclasses.replace(old[key], stale=next(filter(None, found), "")))
    write_verdicts(merged, out)
    return tuple(merged)


def _staleness(out: Path, run: Mapping[str, Callable[..., object]], name: str) -> str:
    """Why what was said of a run may not be what would be said today; nothing if it is."""
    paths = list((out / "evidence").glob(f"*/{glob.escape(name)}.json"))
    if not paths:
        return f"its evidence {name} is gone"
    try:
        evidence = Evidence.read(paths[0])
    except ValueError:
        return f"its evidence {name} cannot be read"
    measuring = run.get(evidence.experiment)
    if measuring is not None and evidence.provenance.get("measuring_code") != measuring_code(measuring):
        return f"its evidence {name} was measured by other code"
    return ""


def pages_behind(out: Path) -> tuple[str, ...]:
    """Pages in a results folder that are older than its verdicts."""
    with contextlib.suppress(OSError):
        written = (out / "verdicts.json").stat().st_mtime_ns
        pages = (out / "index.html", out / "report.md")
        return tuple(page.name for page in pages if page.exists() and page.stat().st_mtime_ns < written)
    return ()


def one_blas_thread() -> contextlib.AbstractContextManager[object]:
    """Hold BLAS to one thread where `threadpoolctl` is installed: replicas are what runs side by side."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    return threadpool_limits(1, user_api="blas")


def select(claims: Sequence[Claim], names: Sequence[str] | None) -> tuple[Claim, ...]:
    """The claims named, in the register's order; all of them if `names` is None.

    Raises:
        ValueError: naming unknown ids and the known ones.
    """
    if names is None:
        return tuple(claims)
    known = [claim.name for claim in claims]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"`--claims` must name registered claims; got {unknown}, known are {', '.join(known)}.")
    return tuple(claim for claim in claims if claim.name in names)


def register_table(claims: Iterable[Claim], experiments: Iterable[Experiment]) -> str:
    """The register: every claim with its statement, source, kind, what it detects, tests and decoys."""
    titles: Mapping[str, str] = {experiment.name: experiment.title for experiment in experiments}
    lines = []
    for claim in claims:
        reach = f"margin {claim.margin:g}" if claim.margin is not None else f"detects {claim.detects:g}"
        lines += [
            f"{claim.name}  ({claim.kind}; {reach}; {claim.num_tests} tests)",
            f"    {claim.statement}",
            f"    source       {claim.source}",
            f"    assumes      {'; '.join(claim.assumptions) or 'nothing more'}",
            f"    decoys       {'; '.join(claim.decoys)}",
            *(f"    evidence     {name}: {titles[name]}" for name in claim.experiments),
            "",
        ]
    return "\n".join(lines).rstrip()


def _nothing(fraction: float) -> None:
    del fraction
