"""The register of claims about quadratics: every prediction, its decoys, and the experiments that decide.

One module a subject; each exports `EXPERIMENTS` and `CLAIMS`. The order is that of the report.
"""

from __future__ import annotations

import importlib

from theory.judge.claim import Claim, Experiment, check_register

_SUBJECTS = (
    "stationary",
    "exact_stationary",
    "transient",
    "exact_paths",
    "bounds",
    "exact_bounds",
    "real_noise",
    "minibatch_law",
    "exact_batches",
    "adaptive",
    "exact_adaptive",
    "family",
    "exact_continuous",
    "stationarity",
)


def _collect() -> tuple[tuple[Claim, ...], tuple[Experiment, ...]]:
    claims: list[Claim] = []
    experiments: dict[str, Experiment] = {}
    for subject in _SUBJECTS:
        module = importlib.import_module(f"{__name__}.{subject}")
        claims += module.CLAIMS
        for experiment in module.EXPERIMENTS:
            if experiments.setdefault(experiment.name, experiment) is not experiment:
                raise ValueError(f"the register must name each experiment once; twice: {experiment.name!r}.")
    check_register(claims, experiments.values())
    return tuple(claims), tuple(experiments.values())


CLAIMS, EXPERIMENTS = _collect()
