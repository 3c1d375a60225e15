"""Exact claims: what an oracle computed without statistics, against a closed form, to a stated number of digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.judge.claim import Claim, Comparison, Experiment, Progress
from theory.judge.evidence import Evidence
from theory.judge.verdict import Kind
from theory.model.setting import Setting

#: Relative error that an exact claim finds.
DIGITS = 1e-10

Answers = Mapping[str, NDArray[Any]]


def each(answer: Callable[[Any, Any], Answers]) -> Callable[[Any], Answers]:
    """The answers for every one of a setting's `optimizers`, under names that end in its number."""

    def answers(setting: Any) -> Answers:
        return {
            f"{key} {index}": value
            for index, optimizer in enumerate(setting.optimizers)
            for key, value in answer(setting, optimizer).items()
        }

    return answers


def relative_error(value: Any, expected: NDArray[np.float64]) -> float:
    """‖value − expected‖_F / ‖expected‖_F; 1 for an answer of another shape, or one that is not finite."""
    found = np.asarray(value, dtype=np.float64)
    if found.shape != expected.shape or not np.isfinite(found).all():
        return 1.0
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def exact_experiment(name: str, title: str, setting: Setting, answer: Callable[[Any], Answers]) -> Experiment:
    """An experiment without chance: `answer` is the oracle, from the setting to named arrays."""

    def run(given: Setting, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        del seed
        arrays = {key: np.asarray(value, dtype=np.float64) for key, value in answer(given).items()}
        progress(1.0)
        return {"num_answers": len(arrays)}, arrays

    def settings(budget: str) -> Setting:
        del budget
        return setting

    return Experiment(name=name, title=title, setting=settings, run=run)


def exact_claim(
    *,
    name: str,
    statement: str,
    source: str,
    experiment: Experiment,
    predict: Callable[[Any], Answers],
    decoys: Mapping[str, Callable[[Any], Answers]],
    assumptions: tuple[str, ...],
    num_tests: int,
) -> Claim:
    """A claim that every array of `predict` has the oracle's value: ‖p − o‖_F ≤ 1e-10 ‖o‖_F for the worst of them.

    A predictor may answer for some of the arrays only; `num_tests` is their number.
    """

    def compare(evidence: Mapping[str, Evidence], rule: Callable[[Any], Answers]) -> Comparison:
        item = evidence[experiment.name]
        answers = rule(type(experiment.setting("default")).from_dict(item.setting))
        errors = {key: relative_error(value, item.arrays[key]) for key, value in answers.items()}
        worst = max(errors, key=lambda key: errors[key])
        return Comparison(
            estimate=errors[worst],
            interval=(errors[worst], errors[worst]),
            num_tests=len(errors),
            note=f"no statistics involved; worst in {worst}",
        )

    return Claim(
        name=name,
        statement=statement,
        source=source,
        kind=Kind.IDENTITY,
        experiments=(experiment.name,),
        assumptions=assumptions,
        predict=predict,
        decoys=decoys,
        compare=compare,
        num_tests=num_tests,
        margin=DIGITS,
    )
