"""Claims about the PAC-Bayes bound: its parts, its course after a decay, the price of non-commutativity, flatness.

Three modules share the work: `bound_law` (parts and course), `commutativity` (price and study), `flatness`.
"""

from __future__ import annotations

from theory.claims import bound_law, commutativity, flatness
from theory.judge.claim import Claim, Experiment

EXPERIMENTS: tuple[Experiment, ...] = (*bound_law.EXPERIMENTS, *commutativity.EXPERIMENTS, *flatness.EXPERIMENTS)
CLAIMS: tuple[Claim, ...] = (*bound_law.CLAIMS, *commutativity.CLAIMS, *flatness.CLAIMS)
