"""Break the code on purpose, one place at a time: every mutant must turn its tests red, and its claims too.

Each mutant replaces one passage of a source file in a scratch copy and runs the tests that guard it, up to
the first failure. What changes a public result also goes through ``python -m theory verify --claims`` with the exact
claims on it (`Mutant.claims`, else `CLAIMS_ON` its file), which must not end in 0; what is printed says which of the two
saw it. `Mutant.by` says where the tests alone are asked: the judge, the register, readers of files and settings compute
no result of the theory. The simulator's faults are listed in `simulator_mutants.py`.
With ``--record FILE`` every outcome is kept with its seconds, the commit and the environment, and what FILE holds as
seen is not asked again; several processes may write to one file. `reports/published/mutants/outcomes.json` is such a
file of the whole table, and `test_mutants.py` holds it against the table.
Exit status: 0 if every mutant is seen by all that must see it, 1 if one is not, 2 if a passage no longer stands in the
source, or tests or claims do not run.
Usage: python tests/mutants.py [--only WORD] [--by tests|claims|both] [--jobs N] [--part I/N] [--record FILE]
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from simulator_mutants import MUTANTS as SIMULATOR

ROOT = Path(__file__).resolve().parent.parent
#: How it begins where neither tests nor claims could say anything.
UNKNOWN = ("missing", "not run")


@dataclass(frozen=True)
class Mutant:
    """One passage of `file` and what replaces it.

    Args:
        file: of the source.
        old: a passage that stands there once.
        new: what replaces it.
        tests: files of tests that must notice.
        claims: exact claims that must notice, as `--claims` takes them; by default those on the file.
        by: who must notice: the tests and the claims, or the tests alone.
    """

    file: str
    old: str
    new: str
    tests: str
    claims: str = ""
    by: Literal["both", "tests"] = "both"


STATIONARY = "tests/theory/closed_form/test_stationary.py"
LYAPUNOV = "tests/theory/oracle/test_lyapunov.py"
SIMULATE = "tests/theory/oracle/test_simulate.py"
NORMALS = "tests/theory/oracle/test_simulate_normals.py"
STATISTICS = "tests/theory/judge/test_statistics.py"
FLUCTUATION = "tests/theory/judge/test_fluctuation.py"
JUDGE = "tests/theory/judge/test_judge.py"
FILES = "tests/theory/judge/test_files.py"
SOURCES = "tests/theory/judge/test_sources.py"
COMMANDS = "tests/theory/test_commands.py"
READING = "tests/theory/judge/test_reading.py"
COMPARE = "tests/reports/test_compare.py"
REGISTER = "tests/theory/test_register.py"
REJUDGE = "tests/theory/test_rejudge.py"
SEQUENTIAL = "tests/theory/test_until_decided.py"
SETTINGS = "tests/theory/model/test_settings.py"
TRANSIENT = "tests/theory/closed_form/test_transient_accuracy.py"
SHUFFLING = "tests/theory/closed_form/test_shuffling.py"
MINIBATCH = "tests/theory/closed_form/test_minibatch.py"
AVERAGING = "tests/theory/closed_form/test_averaging.py"
CORRELATION_TIME = "tests/theory/closed_form/test_correlation_time.py"
CLAIMS_STATIONARY = "tests/theory/claims/test_stationary.py"
CLAIMS_SHOWN = "tests/theory/claims/test_shown.py"
CLAIMS_REPLICATES = "tests/theory/claims/test_replicates.py"
CLAIMS_TRANSIENT = "tests/theory/claims/test_transient_claims.py"
CLAIMS_SINGLE = "tests/theory/claims/test_single_run.py"
CLAIMS_BOUNDS = "tests/theory/claims/test_bound_claims.py"
CLAIMS_MINIBATCH = "tests/theory/claims/test_minibatch_law.py"
CONTINUOUS = "tests/theory/closed_form/test_continuous_time.py"
INTERVALS = "tests/theory/judge/test_intervals.py"
TRAJECTORY = "tests/theory/judge/test_trajectory.py"
TERMINAL = "tests/theory/judge/test_terminal.py"
RESULTS = "tests/theory/judge/test_results.py"
EXACT = "tests/theory/claims/test_exact.py"
STATIONARITY = "tests/theory/claims/test_stationarity.py"
LANGEVIN = "tests/theory/closed_form/test_langevin.py"
PRECONDITIONED = "tests/theory/closed_form/test_preconditioned.py"
STABILITY = "tests/theory/closed_form/test_stability.py"
OPTIMUM = "tests/theory/closed_form/test_optimum.py"
GROUPS = "tests/theory/closed_form/test_general_paths.py"
ATTRIBUTION = "tests/theory/closed_form/test_attribution.py"
PAC_BAYES = "tests/theory/closed_form/test_pac_bayes.py"
MOMENTS = "tests/theory/closed_form/test_minibatch_moments.py"
EDGE = "tests/theory/closed_form/test_edge.py"
ADAPTIVE = "tests/theory/closed_form/test_adaptive.py"
ALIGNMENT = "tests/theory/closed_form/test_alignment.py"
CORRELATED = "tests/theory/closed_form/test_correlated.py"
INTERPOLATION = "tests/theory/closed_form/test_interpolation.py"
DIVERGENCE = "tests/theory/closed_form/test_divergence.py"

MUTANTS = (
    # The stationary law.
    Mutant("theory/closed_form/stability.py", "dd.subtract(dd.multiply(two, full), a)", "dd.subtract(dd.multiply(two, contraction), a)", STATIONARY),
    Mutant("theory/closed_form/stability.py", "dd.multiply(two, early)", "early", STATIONARY),
    Mutant("theory/closed_form/stability.py", "contraction = dd.add(contraction, early)", "contraction = dd.subtract(contraction, early)", STATIONARY),
    Mutant("theory/closed_form/stability.py", "at_plus_one=found.rate[0],", "at_plus_one=1.01 * found.rate[0],", STATIONARY),
    Mutant("theory/closed_form/stability.py", "np.full_like(lam, optimizer.weight_decay)", "np.full_like(lam, 0.0)", STATIONARY),
    Mutant("theory/closed_form/stability.py", "dd.multiply(on_gradient, dd.exact_sum(1.0, -mu))", "on_gradient", STATIONARY),
    Mutant("theory/closed_form/stability.py", "ahead = dd.divide(dd.multiply(on_gradient, dd.pair(mu)), gain)", "ahead = dd.multiply(on_gradient, dd.pair(mu))", STATIONARY),
    Mutant("theory/closed_form/stability.py", "reach = on_gradient * (1.0 + mu)", "reach = on_gradient * (1.0 + 2.0 * mu)", STATIONARY),
    Mutant("theory/closed_form/stability.py", "keep = np.where(mu > 0, 1.0 - optimizer.dampening, 1.0)", "keep = 1.0 - optimizer.dampening", STABILITY),
    Mutant("theory/closed_form/stability.py", "on_gradient, on_buffer = (1.0, mu) if optimizer.nesterov else optimizer.direction", "on_gradient, on_buffer = (0.0, 1.0)", STABILITY),
    Mutant("theory/closed_form/stationary.py", "scale * contraction * (2.0 - contraction)", "1.01 * scale * contraction * (2.0 - contraction)", STATIONARY),
    Mutant("theory/closed_form/stationary.py", "    difference *= apart\n", "    difference *= -apart\n", STATIONARY),
    Mutant("theory/closed_form/stationary.py", "mode.momentum - mode.ahead * (1.0 - mode.momentum)", "mode.momentum", STATIONARY),
    Mutant("theory/closed_form/stationary.py", "* lead + ahead * lead.T)", "* lead - ahead * lead.T)", STATIONARY),
    Mutant("theory/closed_form/stationary.py", "velocity, cross = eta * eta * velocity, -eta * cross", "velocity, cross = eta * eta * velocity, eta * cross", STATIONARY),
    Mutant("theory/closed_form/stationary.py", "    once = same - _lead(mode)", "    once = same + _lead(mode)", STATIONARY),
    Mutant("theory/closed_form/stationary.py", "velocity = (keep * keep) * driven", "velocity = keep * driven", STATIONARY),
    Mutant("theory/closed_form/stationary.py", "return apart + np.multiply.outer(mode.contraction, p)", "return np.multiply.outer(mode.contraction, p)", STATIONARY),
    Mutant("theory/closed_form/powers.py", "-eta * found.gain / optimizer.gradient_share", "-eta * found.gain", TRANSIENT),
    # The optimum, parameter groups, and where nothing pulls back.
    Mutant("theory/closed_form/stationary.py", "share = seen.curvatures / (seen.curvatures + seen.optimizer.weight_decay)", "share = np.ones_like(seen.curvatures)", OPTIMUM),
    Mutant("theory/closed_form/transient.py", "pull = seen.optimizer.weight_decay * seen.optimum", "pull = 0.0 * seen.optimum", OPTIMUM),
    Mutant("theory/closed_form/transient.py", "np.full_like(mode.sign, 2.0)", "np.full_like(mode.sign, 1.0)", OPTIMUM),
    Mutant("theory/closed_form/transient.py", "return replace(optimizer, dampening=0.0)", "return optimizer", OPTIMUM),
    Mutant("theory/closed_form/propagate.py", "pushes += decay * e", "pushes += e", OPTIMUM),
    Mutant("theory/closed_form/pac_bayes.py", 'places["prior_mean"] = anchor - optimum', 'places["prior_mean"] = anchor', OPTIMUM),
    Mutant("theory/closed_form/pac_bayes.py", "0.5 * ((1.0 / scale - 1.0) * spread", "0.5 * ((1.0 - scale) * spread", OPTIMUM),
    Mutant("theory/closed_form/eigenbasis.py", "optimizer.weight_decay * groups.decays()", "optimizer.weight_decay", GROUPS),
    Mutant("theory/closed_form/eigenbasis.py", 'self.scale if self.optimizer.form == "position" else 1.0 / self.scale', "self.scale", GROUPS),
    Mutant("theory/closed_form/propagate.py", "changes.get(first, problem)", "problem", GROUPS),
    Mutant("theory/closed_form/propagate.py", "slope = path.curvature_factors[at][:, None, None] * curvatures + decay", "slope = path.curvature_factors[at][:, None, None] * curvatures + optimizer.weight_decay", GROUPS),
    Mutant("theory/closed_form/attribution.py", "linear_sum_assignment(shares, maximize=True)", "linear_sum_assignment(shares)", ATTRIBUTION),
    Mutant("theory/closed_form/eigenbasis.py", "basis[:, cluster] = inside @ turn", "basis[:, cluster] = inside", STATIONARY, claims="price-exact"),
    Mutant("theory/closed_form/eigenbasis.py", "noise = congruence(basis.T, problem.noise_cov)", "noise = congruence(basis, problem.noise_cov)", STATIONARY),
    # The transient.
    Mutant("theory/closed_form/powers.py", "shrink = ratio * mode.slow * mode.fast", "shrink = ratio * mode.slow", TRANSIENT),
    Mutant("theory/closed_form/powers.py", "xy, yx = mode.product * ratio, -mode.gap * ratio", "xy, yx = mode.product * ratio, mode.gap * ratio", TRANSIENT),
    Mutant("theory/closed_form/powers.py", "envelope = np.exp(0.5 * k * log_product)", "envelope = np.exp(k * log_product)", TRANSIENT),
    Mutant("theory/closed_form/transient.py", "forcing = mode.kick**2 * seen.noise", "forcing = 1.01 * mode.kick**2 * seen.noise", TRANSIENT),
    # Real noise and the bound.
    Mutant("theory/closed_form/shuffling.py", "1.0 - share * (1.0 - factor)", "1.0 - share * factor", SHUFFLING),
    Mutant("theory/closed_form/minibatch.py", "direct = np.diag(gain) * (inputs * shift) ** 2 / (size * (1.0 - own))", "direct = np.diag(gain) * (inputs * shift) ** 2 / size", MINIBATCH),
    Mutant("theory/closed_form/minibatch.py", "misfit * feedback) / (1.0 - feedback)", "misfit * feedback)", MINIBATCH),
    Mutant("theory/closed_form/minibatch_moments.py", "deviating = turned - turned.mean(axis=0)", "deviating = turned", MOMENTS),
    Mutant("theory/closed_form/minibatch_moments.py", "self.rest = law.slope_cov - along.T @ along", "self.rest = law.slope_cov", MOMENTS),
    Mutant("theory/closed_form/minibatch_moments.py", "third * count**2 / (", "third * count / (", MOMENTS),
    Mutant("theory/closed_form/minibatch_moments.py", "- size / self.law.num_samples) / size", "- 0.0 * size) / size", MOMENTS),
    Mutant("theory/closed_form/minibatch_moments.py", "slopes = law.slopes + law.curvatures @ mean", "slopes = law.slopes", MOMENTS, by="tests"),
    Mutant("theory/closed_form/minibatch_moments.py", "added += push @ self.fresh @ push.T / size", "added += push @ self.fresh @ push.T", MOMENTS),
    Mutant("theory/closed_form/outside.py", "cross = np.tensordot(-between[:-1] / num_samples", "cross = np.tensordot(0.0 * between[:-1] / num_samples", MOMENTS, by="tests"),
    Mutant("theory/closed_form/outside.py", "return (1.0 - 1.0 / num_samples) / size", "return 1.0 / size", MOMENTS, by="tests"),
    Mutant("theory/closed_form/edge.py", "(count - batch_size) / (batch_size * (count - 1.0))", "(count - batch_size) / (batch_size * count)", EDGE),
    Mutant("theory/closed_form/edge.py", "(count - 2.0 * batch_size) / ((count - 1.0)", "(count - batch_size) / ((count - 1.0)", EDGE),
    Mutant("theory/closed_form/edge.py", "(1.0 - momentum) * curvature**2 + (1.0 + momentum) * fed", "(1.0 - momentum) * (curvature**2 + fed)", EDGE, claims="mean-square-edge-many"),
    Mutant("theory/closed_form/edge.py", "total - inner[:, None] * x * inner", "total", EDGE, claims="mean-square-edge-many"),
    Mutant("theory/closed_form/pac_bayes.py", "return self.kl_diagonal + self.total_correlation", "return self.kl_diagonal", PAC_BAYES),
    Mutant("theory/closed_form/pac_bayes.py", "return -np.log(self.variances)", "return np.log(self.variances)", PAC_BAYES),
    Mutant("theory/closed_form/divergence.py", "        z *= 2.0\n", "        z *= 2.002\n", DIVERGENCE),
    # The family: averages, samplers, second-order methods.
    Mutant("theory/closed_form/averaging.py", 'push = np.concatenate([kicks, gain * kicks[:, :, :1]], axis=2)', 'push = np.concatenate([kicks, 0 * kicks[:, :, :1]], axis=2)', AVERAGING),
    Mutant("theory/closed_form/averaging.py", "in reversed(list(enumerate(rates)))", "in enumerate(rates)", AVERAGING),
    Mutant("theory/closed_form/averaging.py", "moved = moved + drift + moved @ drift", "moved = moved + drift", AVERAGING),
    Mutant("theory/closed_form/correlation_time.py", "pulled = np.linalg.solve(decayed, seen)", "pulled = np.linalg.solve(problem.dense_hessian(), seen)", CORRELATION_TIME),
    Mutant("theory/closed_form/langevin.py", "added = 2.0 * (1.0 - optimizer.momentum) * T", "added = 2.0 * T", LANGEVIN),
    Mutant("theory/closed_form/langevin.py", "T * (1.0 - mu) / (1.0 + mu) * decayed", "0.0 * decayed", LANGEVIN),
    Mutant("theory/closed_form/langevin.py", "+ 2.0 * apart", "+ apart", LANGEVIN),
    Mutant("theory/closed_form/langevin.py", "(2.0 + level_slope / level(mode) - slope / product)", "(2.0 - slope / product)", LANGEVIN),
    Mutant("theory/closed_form/langevin.py", "needed = T / (", "needed = 0.99 * T / (", LANGEVIN),
    Mutant("theory/closed_form/langevin.py", "problem.dense_noise_cov() + pull @ decayed", "problem.dense_noise_cov()", LANGEVIN),
    Mutant("theory/closed_form/langevin.py", "dual = solved(curvature / T - np.linalg.inv(law))", "dual = solved(curvature / T)", LANGEVIN),
    Mutant("theory/closed_form/langevin.py", "steps - np.multiply.outer(steps, steps)", "steps", LANGEVIN),
    Mutant("theory/closed_form/preconditioned.py", "return _symmetric(root @ law @ root)", "return _symmetric(law)", PRECONDITIONED),
    Mutant("theory/closed_form/preconditioned.py", "Quadratic(curvatures / (curvatures + epsilon), scale", "Quadratic(curvatures / curvatures, scale", PRECONDITIONED),
    Mutant("theory/closed_form/preconditioned.py", "half = 0.25 * (rate / (1 + mu)", "half = 0.25 * (rate / (1 - mu)", PRECONDITIONED),
    Mutant("theory/claims/exact.py", "worst = max(errors, key", "worst = min(errors, key", EXACT, by="tests"),
    Mutant("theory/claims/exact.py", "margin=DIGITS,", "margin=1e3 * DIGITS,", EXACT, by="tests"),
    Mutant("theory/claims/stationarity.py", "binomial_interval(int(hits.sum()), len(hits), TEST_ALPHA)", "binomial_interval(int(hits.sum()), len(hits), 0.9)", STATIONARITY, by="tests"),
    # What claims once did not see, and formulas that had no mutant.
    Mutant("theory/closed_form/adaptive.py", "pulled = scale[:, None] * hessian", "pulled = hessian", ADAPTIVE),
    Mutant("theory/closed_form/adaptive.py", "momentum = optimizer.beta1 * (1.0 - optimizer.learning_rate * decay)", "momentum = optimizer.beta1", ADAPTIVE),
    Mutant("theory/closed_form/adaptive.py", "+ floor + drift**2, cov", "+ floor, cov", ADAPTIVE),
    Mutant("theory/closed_form/pac_bayes.py", "scale, complexity = 2.0 * loss.constant, (paid + 0.5 * math.log(n) - math.log(delta)) / (2.0 * (n - 1))", "scale, complexity = 2.0 * loss.constant, (paid + 0.5 * math.log(n) - math.log(delta)) / (2.0 * n)", PAC_BAYES),
    Mutant("theory/closed_form/pac_bayes.py", "cost = -np.log(np.asarray(prior.weights))", "cost = 0.0 * np.log(np.asarray(prior.weights))", PAC_BAYES),
    Mutant("theory/closed_form/pac_bayes.py", "math.log(len(constants) / delta)", "math.log(1.0 / delta)", PAC_BAYES),
    Mutant("theory/closed_form/pac_bayes.py", "share = curvatures / (curvatures + optimizer.weight_decay)", "share = np.ones_like(curvatures)", PAC_BAYES),
    Mutant("theory/closed_form/pac_bayes.py", "np.asarray(curvatures) / np.asarray(kl_price))", "2.0 * np.asarray(curvatures) / np.asarray(kl_price))", PAC_BAYES),
    Mutant("theory/closed_form/averaging.py", "(forward + forward.T - law.require())", "(forward + forward.T + law.require())", AVERAGING),
    Mutant("theory/closed_form/attribution.py", "lift = (1.0 + mu) * (1.0 + ahead * reach)", "lift = (1.0 + mu) * (1.0 - ahead * reach)", ATTRIBUTION),
    Mutant("theory/closed_form/stationary.py", "    return (a[:, None] + a) * levels / increments", "    return np.full_like(levels, 1.0 + mode.momentum)", STATIONARY),
    Mutant("theory/closed_form/stationary.py", "return (optimizer.learning_rate * mode.gain) ** 2 * noise * numerator", "return optimizer.learning_rate**2 * noise * numerator", STATIONARY),
    Mutant("theory/closed_form/propagate.py", "quasi, exact = noise_factor * weight_covariance(mode, seen.noise, optimizer), inner[0, 0]", "quasi, exact = weight_covariance(mode, seen.noise, optimizer), inner[0, 0]", GROUPS),
    Mutant("theory/closed_form/transient.py", "spectral_radius=float(mode.spectral_radius.max()),", "spectral_radius=float(mode.spectral_radius.max()) ** 2,", TRANSIENT),
    Mutant("theory/closed_form/alignment.py", "strict_nats=total_correlation(strict),", "strict_nats=total_correlation(covariance),", EXACT),
    Mutant("theory/closed_form/alignment.py", "nats=total_correlation(covariance),", "nats=total_correlation(strict),", ALIGNMENT),
    Mutant("theory/closed_form/alignment.py", 'found["omega"] = math.sqrt(product) / (h_norm * c_norm)', 'found["omega"] = product / (h_norm * c_norm)', ALIGNMENT),
    Mutant("theory/closed_form/interpolation.py", "exponent = 2.0 * checked[:, None]", "exponent = 1.0 * checked[:, None]", INTERPOLATION),
    Mutant("theory/closed_form/interpolation.py", "mode.slow * (2.0 - mode.slow)", "mode.slow", INTERPOLATION),
    Mutant("theory/closed_form/correlated.py", "fresh = (1.0 - autocorrelation) * (1.0 + autocorrelation)", "fresh = 1.0 - autocorrelation", CORRELATED),
    # The experiments, decoys and comparisons of exact claims.
    Mutant("theory/claims/exact.py", "if found.shape != expected.shape or not np.isfinite(found).all():", "if found.shape != expected.shape:", EXACT, by="tests"),
    Mutant("theory/claims/exact_paths.py", 'PRINTED = {"position": 3.28, "pytorch": 0.48}', 'PRINTED = {"position": 3.28, "pytorch": 0.84}', EXACT, by="tests"),
    Mutant("theory/claims/exact_paths.py", "return values if not shift else np.concatenate([values[:shift], values[:-shift]])", "return values", EXACT, by="tests"),
    Mutant("theory/claims/exact_bounds.py", "return {name: risks + (right - risks) * np.sqrt((n - 1) / n)}", "return {name: right}", EXACT, by="tests"),
    # The continuous-time law.
    Mutant("theory/closed_form/continuous_time.py", "/ ((1.0 + mu) * pairs)", "/ ((1.0 - mu) * pairs)", CONTINUOUS),
    Mutant("theory/closed_form/continuous_time.py", "- mu * apart * apart", "+ mu * apart * apart", CONTINUOUS),
    Mutant("theory/closed_form/continuous_time.py", "size * math.sqrt(float(np.trace(exact)))", "size * float(np.trace(exact))", CONTINUOUS),
    Mutant("theory/closed_form/continuous_time.py", "frame.outward(rate / (1.0 - optimizer.momentum) * frame.noise", "frame.outward(rate * frame.noise", CONTINUOUS),
    Mutant("theory/closed_form/divergence.py", "first - second @ (left @ right)", "first - second", CONTINUOUS, claims="continuous-time-error"),
    # What is claimed of samples: experiments, decoys, comparisons.
    Mutant("theory/claims/stationary.py", "return state_covariance(scaled_noise(simulation, 1.01))", "return state_covariance(scaled_noise(simulation, 1.0001))", f"{CLAIMS_STATIONARY}::test_the_truth_is_supported_and_refutes_every_decoy", by="tests"),
    Mutant("theory/claims/stationary.py", "chosen = np.diag(z) if diagonal_only else z.ravel()", "chosen = np.diag(z)", f"{CLAIMS_STATIONARY}::test_the_truth_is_supported_and_refutes_every_decoy", by="tests"),
    Mutant("theory/claims/stationary.py", "_constant(lambda mu: 1 / (1 - mu))", "_constant(lambda mu: 1 + mu)", f"{CLAIMS_STATIONARY}::test_the_truth_is_supported_and_refutes_every_decoy", by="tests"),
    Mutant("theory/claims/stationary.py", "flow = predict(simulation)[i, j] * optimizer.learning_rate**2 *", "flow = predict(simulation)[i, j] * optimizer.learning_rate *", f"{CLAIMS_STATIONARY}::test_the_truth_is_supported_and_refutes_every_decoy", by="tests"),
    Mutant("theory/claims/stationary.py", "found = _tested(item, predict, state_frame(eigenbasis(simulation.problem).basis, m))", "found = _tested(item, predict, _weight_frame(simulation))", f"{CLAIMS_STATIONARY}::test_the_truth_is_supported_and_refutes_every_decoy", by="tests"),
    Mutant("theory/claims/stationary.py", "_weight_frame(simulation), means=False)", "_weight_frame(simulation), means=True)", f"{CLAIMS_STATIONARY}::test_the_truth_is_supported_and_refutes_every_decoy", by="tests"),
    Mutant("theory/claims/stationary.py", 'low = np.array(item.measured["largest_decaying"]) / limits - 1\n', 'low = np.array(item.measured["largest_decaying"]) / limits - 1.01\n', f"{CLAIMS_STATIONARY}::test_the_search_finds_the_edge_and_a_coarse_one_does_not_decide", by="tests"),
    Mutant("theory/claims/stationary.py", "grows = size[2:].sum(axis=0) > size[:2].sum(axis=0)", "grows = size[2:].sum(axis=0) < size[:2].sum(axis=0)", f"{CLAIMS_STATIONARY}::test_the_search_finds_the_edge_and_a_coarse_one_does_not_decide", by="tests"),
    Mutant("theory/claims/stationary.py", "    worst = max(errors)\n", "    worst = min(errors)\n", f"{CLAIMS_STATIONARY}::test_impulse_responses_hold_to_eleven_digits_and_a_change_in_the_ninth_is_seen", by="tests"),
    Mutant("theory/claims/stationary.py", "addition = step @ total @ step.T", "addition = step @ total", f"{CLAIMS_STATIONARY}::test_impulse_responses_hold_to_eleven_digits_and_a_change_in_the_ninth_is_seen", by="tests"),
    Mutant("theory/claims/stationary.py", "steps = -math.log(remainder) / (2 * rate)", "steps = -math.log(remainder) / (8 * rate)", f"{CLAIMS_STATIONARY}::test_the_start_is_forgotten_before_anything_is_recorded", by="tests"),
    Mutant("theory/claims/moments.py", "normal_p_value(frame @ mean / np.sqrt(", "normal_p_value(0.0 * (frame @ mean) / np.sqrt(", f"{CLAIMS_STATIONARY}::test_means_and_pairs_of_directions_are_judged_and_not_variances_alone", by="tests"),
    Mutant("theory/claims/moments.py", "normal_p_value((found - expected)[upper]", "normal_p_value(0.0 * (found - expected)[upper]", f"{CLAIMS_STATIONARY}::test_means_and_pairs_of_directions_are_judged_and_not_variances_alone", by="tests"),
    Mutant("theory/claims/moments.py", "degrees = 2.0 * np.diag(found) ** 2 / np.diag(variance)", "degrees = 8.0 * np.diag(found) ** 2 / np.diag(variance)", f"{CLAIMS_STATIONARY}::test_p_values_of_right_moments_are_uniform", by="tests"),
    Mutant("theory/claims/moments.py", "stride = int(times[1] - times[0]) if len(times) > 1", "stride = 1 if len(times) > 1", f"{CLAIMS_STATIONARY}::test_p_values_of_right_moments_are_uniform", by="tests"),
    Mutant("theory/claims/moments.py", "        if self.excess_kurtosis:\n", "        if False:\n", f"{CLAIMS_STATIONARY}::test_noise_of_heavy_tails_widens_the_error_of_a_variance", by="tests"),
    Mutant("theory/claims/moments.py", "Quadratic(problem.hessian, factor * problem.noise_cov)", "Quadratic(problem.hessian, problem.noise_cov)", f"{CLAIMS_STATIONARY}::test_the_truth_is_supported_and_refutes_every_decoy", by="tests"),
    Mutant("theory/claims/moments.py", "reached=float(tests.degrees.min())", "reached=float(tests.degrees.max())", f"{CLAIMS_STATIONARY}::test_too_small_a_sample_of_the_truth_is_inconclusive", by="tests"),
    Mutant("theory/claims/shown.py", "value - reach, value + reach", "value, value + reach", CLAIMS_SHOWN, by="tests"),
    Mutant("theory/claims/shown.py", 'min(int(item.setting["replicas"])', 'max(int(item.setting["replicas"])', CLAIMS_SHOWN, by="tests"),
    Mutant("theory/claims/shown.py", "role=Role.DECOY", "role=Role.PREDICTED", CLAIMS_SHOWN, by="tests"),
    Mutant("theory/claims/replicates.py", "t + bend * t * t / 3.0 + bend * bend * t**3 / 27.0 + bend / 6.0", "t + 0.0 * bend", CLAIMS_REPLICATES, by="tests"),
    Mutant("theory/claims/replicates.py", "degrees=2.0 * (mean / error) ** 2", "degrees=4.0 * (mean / error) ** 2", CLAIMS_REPLICATES, by="tests"),
    Mutant("theory/claims/replicates.py", "if outside.max() > margin else", "if outside.max() < margin else", CLAIMS_REPLICATES, by="tests"),
    Mutant("theory/claims/replicates.py", "return square - mean.mean(axis=0) ** 2", "return square", CLAIMS_REPLICATES, by="tests"),
    Mutant("theory/claims/replicates.py", "np.argmin(tests.p_value)", "np.argmax(tests.p_value)", CLAIMS_REPLICATES, by="tests"),
    Mutant("theory/claims/drops.py", "+ np.where(known, product, 0.0) ** 2) / count)", "+ np.where(known, product, 0.0) ** 2) / (16 * count))", f"{CLAIMS_TRANSIENT}::test_tests_of_a_law_are_calibrated_and_have_the_stated_power", by="tests"),
    Mutant("theory/claims/drops.py", "degrees = np.full(ratio.shape, float(count))", "degrees = np.full(ratio.shape, float(count) / 16)", f"{CLAIMS_TRANSIENT}::test_tests_of_a_law_are_calibrated_and_have_the_stated_power", by="tests"),
    Mutant("theory/claims/drops.py", "state, begun = law[-1], begun + segment.steps", "state, begun = law[0], begun + segment.steps", f"{CLAIMS_TRANSIENT}::test_the_predicted_law_is_the_plain_recursion", by="tests"),
    Mutant("theory/claims/transient.py", "path = mean_path(segment.problem or simulation.problem, segment.optimizer, state, steps)", "path = mean_path(simulation.problem, simulation.segments[0].optimizer, state, steps)", f"{CLAIMS_TRANSIENT}::test_the_predicted_law_is_the_plain_recursion", by="tests"),
    Mutant("theory/claims/transient.py", "        state, begun = path[-1], begun + segment.steps", "        state, begun = path[0], begun + segment.steps", f"{CLAIMS_TRANSIENT}::test_the_predicted_law_is_the_plain_recursion", by="tests"),
    Mutant("theory/claims/interpolation.py", "INSIDE, OUTSIDE = (2e-5, 5e-5, 1e-4, 2e-4), (5e-4, 7e-4, 1e-3)", "INSIDE, OUTSIDE = (2e-5, 5e-5, 1e-4, 4e-4), (5e-4, 7e-4, 1e-3)", f"{CLAIMS_TRANSIENT}::test_the_region_was_fixed_and_the_maps_agree_with_it", by="tests"),
    Mutant("theory/claims/single_run.py", "expected = 2 * sigma**2 * times", "expected = sigma**2 * times", CLAIMS_SINGLE, by="tests"),
    Mutant("theory/claims/single_run.py", "(1 + 0.5 * np.maximum(kurtosis, 0.0))", "(0.1 + 0.5 * np.maximum(kurtosis, 0.0))", CLAIMS_SINGLE, by="tests"),
    Mutant("theory/claims/single_run.py", "z = (found.mean(axis=0) - sigma)", "z = 0 * (found.mean(axis=0) - sigma)", CLAIMS_SINGLE, by="tests"),
    Mutant("theory/claims/averaging.py", "normal_p_value(((measured - law) / spread)[upper])", "normal_p_value(0 * ((measured - law) / spread)[upper])", CLAIMS_SINGLE, by="tests"),
    Mutant("theory/claims/averaging.py", "        reached=float(run.replicas),\n", "        reached=1e9,\n", CLAIMS_SINGLE, by="tests"),
    Mutant("theory/claims/bound_law.py", "logdet -= float(np.sum(special.digamma(half)", "logdet -= 0.0 * float(np.sum(special.digamma(half)", f"{CLAIMS_BOUNDS}::test_sampled_divergence_and_price_are_unbiased_with_the_error_they_state", by="tests"),
    Mutant("theory/claims/bound_law.py", " - float(np.trace(self.covariance)) / (self.degrees + 1)", "", f"{CLAIMS_BOUNDS}::test_sampled_divergence_and_price_are_unbiased_with_the_error_they_state", by="tests"),
    Mutant("theory/claims/bound_law.py", "variance = 0.5 * float(np.trace(spread @ spread))", "variance = float(np.trace(spread @ spread))", f"{CLAIMS_BOUNDS}::test_sampled_divergence_and_price_are_unbiased_with_the_error_they_state", by="tests"),
    Mutant("theory/claims/commutativity.py", "    return value - bias, math.sqrt(2.0 / replicas", "    return value, math.sqrt(2.0 / replicas", f"{CLAIMS_BOUNDS}::test_sampled_divergence_and_price_are_unbiased_with_the_error_they_state", by="tests"),
    Mutant("theory/claims/commutativity.py", "value - bias, math.sqrt(2.0 / replicas *", "value - bias, math.sqrt(1.0 / replicas *", f"{CLAIMS_BOUNDS}::test_sampled_divergence_and_price_are_unbiased_with_the_error_they_state", by="tests"),
    Mutant("theory/claims/minibatch_law.py", '        exact = item.arrays[f"second_{index}"] + item.arrays[f"second_{index + 1}"]\n        worst = max(worst, float(np.abs(above + below - exact).max()', '        exact = item.arrays[f"second_{index}"] + item.arrays[f"second_{index + 1}"]\n        worst = max(worst, 2 * float(np.abs(above - below + exact).max()', f"{CLAIMS_MINIBATCH}::test_evidence_supports_the_claim_and_refutes_its_decoys", by="tests"),
    Mutant("theory/claims/minibatch_law.py", "    return law(_spread(run, 0.0))", "    return law(_spread(run, 1.0))", f"{CLAIMS_MINIBATCH}::test_evidence_supports_the_claim_and_refutes_its_decoys", by="tests"),
    Mutant("theory/claims/exact_continuous.py", "    return error / (1 - error)", "    return error", EXACT, by="tests"),
    Mutant("theory/claims/exact_batches.py", '    return {key: found["mean"] for key in ("end", f"step {setting.phase}")}', '    return {key: found[key] for key in ("end", f"step {setting.phase}")}', EXACT, by="tests"),
    Mutant("theory/claims/family.py", "heat = setting.temperature / (1 - optimizer.momentum)\n", "heat = setting.temperature\n", EXACT, by="tests"),
    # The oracles.
    Mutant("theory/oracle/transition.py", "v_from_w, v_from_v, v_from_noise = keep * curvature, mu * one, keep * one", "v_from_w, v_from_v, v_from_noise = keep * curvature, one, keep * one", LYAPUNOV),
    Mutant("theory/oracle/transition.py", "-keep * eta @ curvature, mu * one, -keep * eta\n", "-keep * eta @ curvature, mu * one, -eta\n", STATIONARY),
    Mutant("theory/oracle/lyapunov.py", "        power = power @ power\n", "        power = power @ step\n", LYAPUNOV),
    Mutant("theory/oracle/lyapunov.py", "    if not radius < 1:", "    if not radius < 2:", LYAPUNOV, by="tests"),
    # The judge.
    Mutant("theory/judge/statistics.py", "return np.minimum(1.0, 2.0 * tails)", "return np.minimum(1.0, tails)", STATISTICS, by="tests"),
    Mutant("theory/judge/statistics.py", "weight = np.where(lags == 0, 1.0, 2.0) * (num_times - lags)", "weight = np.where(lags == 0, 1.0, 1.0) * (num_times - lags)", STATISTICS, by="tests"),
    Mutant("theory/judge/statistics.py", 'return variance + np.einsum("h,hij,hji->ij"', 'return variance - np.einsum("h,hij,hji->ij"', STATISTICS, by="tests"),
    Mutant("theory/judge/statistics.py", "return excess_kurtosis * total / (replicas * float(len(times)) ** 2)", "return 2 * excess_kurtosis * total / (replicas * float(len(times)) ** 2)", STATISTICS, by="tests"),
    Mutant("theory/judge/statistics.py", "return max(float(special.gammainc(half, above)), float(special.gammaincc(half, below)))", "return float(special.gammainc(half, above))", STATISTICS, by="tests"),
    Mutant("theory/judge/statistics.py", "math.lgamma(k) + math.log(alpha)", "math.lgamma(k) + math.log(2 * alpha)", STATISTICS, by="tests"),
    Mutant("theory/judge/fluctuation.py", "0.5 * (1.0 + momentum) * eta * right", "0.5 * eta * right", FLUCTUATION, by="tests"),
    Mutant("theory/judge/fluctuation.py", "kept * left, 0.5", "left, 0.5", FLUCTUATION, by="tests"),
    Mutant("theory/judge/fluctuation.py", "spread = scatter / BATCHES", "spread = scatter", FLUCTUATION, by="tests"),
    Mutant("theory/judge/fluctuation.py", "error=float(means.std(ddof=1)) / math.sqrt(2 * BATCHES)", "error=float(gap.std(ddof=1)) / math.sqrt(len(gap))", FLUCTUATION, by="tests"),
    Mutant("theory/judge/fluctuation.py", "length >= 2 * BATCHES * SHORTEST_BATCH * time", "True", FLUCTUATION, by="tests"),
    Mutant("theory/judge/claim.py", "if comparison.p_value <= TEST_ALPHA:", "if comparison.p_value < TEST_ALPHA:", JUDGE, by="tests"),
    Mutant("theory/judge/claim.py", "comparison.reached >= needed_degrees(detects)", "comparison.reached >= 0.4 * needed_degrees(detects)", JUDGE, by="tests"),
    Mutant("theory/judge/claim.py", "if escaped and outcome is Outcome.SUPPORTED:", "if False:", JUDGE, by="tests"),
    Mutant("theory/judge/claim.py", "if high < -margin or low > margin:", "if high < -margin or high > margin:", JUDGE, by="tests"),
    Mutant("theory/judge/verdict.py", "        if verdict.kind is not Kind.HYPOTHESIS\n", "        if verdict.kind is Kind.HYPOTHESIS\n", JUDGE, by="tests"),
    Mutant("theory/judge/verdict.py", "return 3 if undecided or toothless else 0", "return 3 if undecided and toothless else 0", JUDGE, by="tests"),
    Mutant("theory/judge/claim.py", "return 1.0 - miss_chance(self.detects, comparison.reached, TEST_ALPHA)", "return 1.0 - MISS", JUDGE, by="tests"),
    Mutant("theory/judge/files.py", "os.link(temporary, target)", "os.replace(temporary, target)", FILES, by="tests"),
    Mutant("theory/judge/files.py", "target = Path(os.path.realpath(path))", "target = path", FILES, by="tests"),
    Mutant("theory/judge/files.py", "if status is not None and _write_through(path, status, content):", "if False:", FILES, by="tests"),
    Mutant("theory/judge/files.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", FILES, by="tests"),
    Mutant("theory/judge/sources.py", "self.found[key] = module.source(statement)", 'self.found[key] = ""', SOURCES, by="tests"),
    Mutant("theory/judge/sources.py", "elif isinstance(node, ast.Name) and node.id in module.bindings:", "elif False:", SOURCES, by="tests"),
    Mutant("theory/verification.py", 'stale=next(filter(None, found), "")', 'stale=""', COMMANDS, by="tests"),
    Mutant("theory/verification.py", "for key in dict.fromkeys((*old, *new)):", "for key in new:", COMMANDS, by="tests"),
    # Intervals, single runs, the family of tests, and what is shown.
    Mutant("theory/judge/statistics.py", "trials - successes + 1))\n", "trials - successes))\n", STATISTICS, by="tests"),
    Mutant("theory/judge/statistics.py", "return float(-special.ndtri(0.5 * alpha))", "return float(-special.ndtri(alpha))", STATISTICS, by="tests"),
    Mutant("theory/judge/statistics.py", "/ math.sqrt(2.0)))", "/ 2.0))", STATISTICS, by="tests"),
    Mutant("theory/judge/statistics.py", "weight[1:] @ backward[1:]", "weight @ backward", STATISTICS, by="tests"),
    Mutant("theory/judge/statistics.py", "low = ratio * half / special.gammainccinv(half, 0.5 * alpha)", "low = ratio * half / special.gammainccinv(half, alpha)", STATISTICS, by="tests"),
    Mutant("theory/judge/statistics.py", "math.log(max(guess, 4.0))", "math.log(max(guess, 4.0)) + 3.0", STATISTICS, by="tests"),
    Mutant("theory/judge/intervals.py", "math.sqrt(max(1.0, spread) / float(weights.sum()))", "math.sqrt(spread / float(weights.sum()))", INTERVALS, by="tests"),
    Mutant("theory/judge/intervals.py", "degrees = total * total / weight if weight > 0", "degrees = total / weight if weight > 0", INTERVALS, by="tests"),
    Mutant("theory/judge/intervals.py", "weights = 1 / (variances + between)", "weights = 1 / variances", INTERVALS, by="tests"),
    Mutant("theory/judge/intervals.py", "math.sqrt((1 + bounded**2 / 2) / (count - 3))", "math.sqrt((1 - bounded**2 / 2) / (count - 3))", INTERVALS, by="tests"),
    Mutant("theory/judge/intervals.py", "inner = 0.0 if low <= 0 <= high else min(abs(low), abs(high))", "inner = min(abs(low), abs(high))", INTERVALS, by="tests"),
    Mutant("theory/judge/intervals.py", "standard_error=width / (2 * float(", "standard_error=width / (1 * float(", INTERVALS, by="tests"),
    Mutant("theory/judge/intervals.py", "error = float(np.std(influences, ddof=1)) / math.sqrt(count)", "error = float(np.std(influences, ddof=1)) / count", INTERVALS, by="tests"),
    Mutant("theory/judge/intervals.py", "standard_error=self.standard_error / abs(unit)", "standard_error=self.standard_error / unit", INTERVALS, by="tests"),
    Mutant("theory/judge/intervals.py", "between = max(scatter - (len(runs) - 1), 0.0)", "between = max(scatter - len(runs), 0.0)", INTERVALS, by="tests"),
    Mutant("theory/judge/trajectory.py", "variance[i, i] = 2.0 * times[i] / length", "variance[i, i] = times[i] / length", TRAJECTORY, by="tests"),
    Mutant("theory/judge/trajectory.py", "running = 1.0 + 2.0 * np.cumsum(own[1 : longest + 1, i] ** 2)", "running = 1.0 + 2.0 * np.cumsum(own[1 : longest + 1, i])", TRAJECTORY, by="tests"),
    Mutant("theory/judge/trajectory.py", "own[: window + 1, j] + forward * backward)", "own[: window + 1, j])", TRAJECTORY, by="tests"),
    Mutant("theory/judge/trajectory.py", "enough = length >= SHORTEST_RUN * float(times.max())", "enough = length >= 0 * float(times.max())", TRAJECTORY, by="tests"),
    Mutant("theory/judge/claim.py", "TEST_ALPHA = FAMILY_ALPHA / FAMILY_SIZE", "TEST_ALPHA = FAMILY_ALPHA", JUDGE, by="tests"),
    Mutant("theory/judge/claim.py", "    if tests > FAMILY_SIZE:\n", "    if tests > 2 * FAMILY_SIZE:\n", JUDGE, by="tests"),
    Mutant("theory/judge/claim.py", '            "windows": list(self.windows),\n', "", JUDGE, by="tests"),
    Mutant("theory/judge/claim.py", "if known and all(known) else", "if all(known) else", JUDGE, by="tests"),
    Mutant("theory/judge/claim.py", "if comparison.num_tests > self.num_tests:", "if False:", JUDGE, by="tests"),
    Mutant("theory/judge/claim.py", "    if low > margin:\n        return Outcome.SUPPORTED\n    return Outcome.REFUTED if high < margin", "    if high > margin:\n        return Outcome.SUPPORTED\n    return Outcome.REFUTED if high < margin", JUDGE, by="tests"),
    Mutant("theory/judge/claim.py", "reach * (1 + normal_quantile(2 * (1 - POWER))", "reach * (1 - normal_quantile(2 * (1 - POWER))", JUDGE, by="tests"),
    Mutant("theory/judge/terminal.py", "Outcome.REFUTED: 0, Outcome.INCONCLUSIVE: 1", "Outcome.REFUTED: 1, Outcome.INCONCLUSIVE: 0", TERMINAL, by="tests"),
    Mutant("theory/judge/terminal.py", "return found.pop() if len(found) == 1 else Outcome.INCONCLUSIVE", "return found.pop()", TERMINAL, by="tests"),
    Mutant("theory/judge/terminal.py", "if verdict.about is None or not verdict.about.pooled:", "if True:", JUDGE, by="tests"),
    Mutant("theory/judge/results.py", "    if not math.isfinite(number):\n", "    if False:\n", RESULTS, by="tests"),
    Mutant("theory/judge/results.py", 'raise ValueError(f"{where} needs x, y, low, high of one length; got {sorted(lengths)}.")', "pass", RESULTS, by="tests"),
    # What is read is checked; what is compared is told apart.
    Mutant("theory/judge/evidence.py", 'if _digest(array) != said["sha256"]:', "if False:", READING, by="tests"),
    Mutant("theory/judge/evidence.py", "if (path.parent.name, path.stem) != (evidence.experiment, evidence.run_id):", "if False:", READING, by="tests"),
    Mutant("theory/judge/reading.py", "if member.file_size > LARGEST_ARRAY + _HEADER:", "if False:", READING, by="tests"),
    Mutant("theory/judge/reading.py", "if stream.tell() + count * dtype.itemsize != size:", "if False:", READING, by="tests"),
    Mutant("theory/judge/reading.py", "if len(found) != len(pairs):", "if False:", READING, by="tests"),
    Mutant("theory/judge/verdict.py", "            _check_fields(fields, _VERDICT_FIELDS)\n", "            pass\n", READING, by="tests"),
    Mutant("theory/judge/differences.py", "return self <= Change.MOVED", "return self <= Change.REMOVED", COMPARE, by="tests"),
    Mutant("theory/judge/differences.py", "Outcome.INCONCLUSIVE: 2", "Outcome.INCONCLUSIVE: 4", COMPARE, by="tests"),
    Mutant("theory/judge/differences.py", "estimate > high + slack", "estimate > 9 * high + slack", COMPARE, by="tests"),
    Mutant("theory/register.py", "            check_register(claims, experiments)\n", "            pass\n", REGISTER, by="tests"),
    Mutant("theory/judge/rejudging.py", "return not any(item.change.is_difference", "return not any(item.change.is_regression", REJUDGE, by="tests"),
    # Looking after every batch.
    Mutant("theory/until_decided.py", "high < 1 + self.detects)).all()", "high < 1 + self.detects)).any()", SEQUENTIAL, by="tests"),
    Mutant("theory/until_decided.py", "((low > 1) | (high < 1)).any()", "((low > 1) | (high < 1)).all()", SEQUENTIAL, by="tests"),
    Mutant("theory/until_decided.py", "return np.concatenate([axes, axes[i] + axes[j], axes[i] - axes[j]])", "return axes", SEQUENTIAL, by="tests"),
    Mutant("theory/until_decided.py", "if outcome is Outcome.SUPPORTED and escaped:", "if False:", SEQUENTIAL, by="tests"),
    Mutant("theory/until_decided.py", "return confidence_sequence(float(count), float(count), alpha)", "return confidence_sequence(float(count), float(count), 20 * alpha)", SEQUENTIAL, by="tests"),
    Mutant("theory/until_decided.py", "np.random.SeedSequence(seed, spawn_key=(batch, problem))", "np.random.SeedSequence(seed + batch, spawn_key=(problem,))", SEQUENTIAL, by="tests"),
    Mutant("theory/judge/evidence.py", "        if evidence.run_id != named:", "        if False:", READING, by="tests"),
    Mutant("theory/judge/files.py", "            os.unlink(temporary)", "            pass", JUDGE, by="tests"),
    Mutant("theory/judge/evidence.py", "json.dumps([experiment, plain(setting), int(seed)]", "json.dumps([experiment, plain(setting), 0]", JUDGE, by="tests"),
    Mutant("theory/model/quadratic.py", "if asymmetry > SYMMETRY_TOLERANCE:", "if asymmetry > 1:", SETTINGS, by="tests"),
    Mutant("theory/judge/reading.py", 'if dtype.kind not in "biufc" or dtype.hasobject:', "if False:", READING, by="tests"),
    Mutant("theory/model/optimizer.py", "if not 0 <= self.momentum < 1:", "if not 0 <= self.momentum <= 1:", SETTINGS, by="tests"),
    *(
        Mutant(file, old, new, f"{SIMULATE} {NORMALS} {OPTIMUM}", claims, "both" if claims else "tests")
        for file, old, new, claims in SIMULATOR
    ),
)  # fmt: skip


#: Home of a formula or an oracle to the claims on it, by which `verify` must see its mutants.
CLAIMS_ON = {
    "adaptive": "adaptive-exact",
    "alignment": "price-exact,commutativity-measures",
    "attribution": "attribution-exact",
    "averaging": "cycle-averages,exponential-average",
    "continuous_time": "continuous-time-error",
    "correlated": "memory-exact",
    "correlation_time": "cycle-averages",
    "divergence": "divergences-exact",
    "edge": "batch-sharpness-exact,mean-square-edge",
    "eigenbasis": "stationary-exact,change-exact,attribution-exact",
    "interpolation": "interpolation-exact",
    "langevin": "langevin-law,optimal-sampling,sandwich-sampling",
    "lyapunov": "transient-interpolation",
    "minibatch": "state-dependent-recursion",
    "minibatch_moments": "minibatch-second-moments-exact,minibatch-second-moments-first-order,batches-settled",
    "mode_response": "memory-exact,shuffled-exact",
    "pac_bayes": "bounds-exact,best-variance,posterior-path,elasticities-exact",
    "powers": "change-exact",
    "preconditioned": "second-order-laws,optimal-sampling",
    "propagate": "schedule-exact",
    "shuffling": "shuffled-exact",
    "stability": "stationary-exact,stability-exact,dissipation-exact,change-exact,quasi-hyperbolic",
    "stationary": "stationary-exact,dissipation-exact,change-exact",
    "transient": "change-exact",
    "transition": "stationary-exact",
}


def claims_on(mutant: Mutant) -> str:
    """The claims that must see a mutant, as `--claims` takes them; empty where the tests alone must."""
    return "" if mutant.by == "tests" else mutant.claims or CLAIMS_ON.get(Path(mutant.file).stem, "")


def asked(mutant: Mutant) -> dict[str, Any]:
    """What a mutant is and who is asked: an outcome recorded under other words is no outcome of it."""
    return {
        "file": mutant.file,
        "old": mutant.old,
        "new": mutant.new,
        "tests": mutant.tests,
        "claims": claims_on(mutant),
    }


def digest(item: dict[str, Any]) -> str:
    """Of what was asked."""
    words = json.dumps([item[name] for name in ("file", "old", "new", "tests", "claims")])
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def environment() -> dict[str, str]:
    """What ran the tests and the claims."""
    packages = ("numpy", "scipy", "numba", "pytest", "hypothesis")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **{name: importlib.metadata.version(name) for name in packages},
    }


def commit() -> str:
    """Of the sources, with a mark where they are not as committed."""
    git = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    changed = git(["git", "status", "--porcelain", "theory", "tests", "pyproject.toml"]).stdout
    return git(["git", "rev-parse", "HEAD"]).stdout.strip() + ("+changes" if changed else "")


def recorded(path: Path) -> dict[str, dict[str, Any]]:
    """Outcomes kept in a file, by digest; none where there is no file."""
    if not path.exists():
        return {}
    return {item["mutant"]: item for item in json.loads(path.read_text(encoding="utf-8"))["outcomes"]}


def record(path: Path, outcomes: list[dict[str, Any]]) -> None:
    """Add outcomes to a file, in the order of the table and without those of mutants that left it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # released with the descriptor
        kept = recorded(path) | {item["mutant"]: item for item in outcomes}
        table = [digest(asked(mutant)) for mutant in MUTANTS]
        lines = ",\n".join("  " + json.dumps(kept[name], ensure_ascii=False) for name in table if name in kept)
        content = f'{{\n "schema": 1,\n "outcomes": [\n{lines}\n ]\n}}\n'
        partial = path.with_name(path.name + ".partial")
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)
    finally:
        os.close(folder)


def ended(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command run to its end in a scratch copy."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "NUMBA_CACHE_DIR": str(copy / "numba"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run([sys.executable, "-m", *command], cwd=copy, env=environment, capture_output=True, text=True)


def scratch_copy(folder: str) -> Path:
    """The sources, tests and pages, where something may be broken."""
    copy = Path(folder)
    for name in ("theory", "tests", "reports", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "local", "published"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def verified(copy: Path, claims: str) -> subprocess.CompletedProcess[str]:
    """The claims judged by what stands in a copy."""
    return ended(copy, "theory", "verify", "--claims", claims, "--out", str(copy / "verified"))


@functools.cache
def support(claims: str) -> str:
    """Nothing if the claims hold of the sources as they are, else what was said: then no mutant is seen by them."""
    with tempfile.TemporaryDirectory() as folder:
        done = verified(scratch_copy(folder), claims)
    return "" if done.returncode == 0 else f"the sources as they are end in {done.returncode}: {done.stderr[-300:]}"


def seen(mutant: Mutant, by: str = "both") -> tuple[dict[str, str], float]:
    """'killed', 'survived' or why neither is known, by each of tests and claims that must see it; and the seconds."""
    started = time.monotonic()
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        return {"passage": f"missing ({text.count(mutant.old)} places)"}, 0.0
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = scratch_copy(folder)
        (copy / mutant.file).write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        if by != "claims":
            options = ("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0")
            done = ended(copy, "pytest", *mutant.tests.split(), *options)
            said = f"not run: {(done.stdout + done.stderr)[-300:]}"
            outcomes["tests"] = {0: "survived", 1: "killed"}.get(done.returncode, said)
        claims = claims_on(mutant)
        if by != "tests" and claims:
            unfounded = support(claims)
            if unfounded:
                outcomes["claims"] = f"not run: {unfounded}"
            else:  # refuted is 1, undecided 3, a formula that raises 2 or 70: the sources as they are end in 0
                outcomes["claims"] = "survived" if verified(copy, claims).returncode == 0 else "killed"
    return outcomes, time.monotonic() - started


def outcome(mutant: Mutant, found: dict[str, str], seconds: float) -> dict[str, Any]:
    """What is kept of one mutant: who saw it (None: not asked), and with what."""
    saw = {who: None if who not in found else found[who] == "killed" for who in ("tests", "claims")}
    return {
        "mutant": digest(asked(mutant)),
        **asked(mutant),
        "by": mutant.by,
        "seen_by_tests": saw["tests"],
        "seen_by_verify": saw["claims"],
        "seconds": round(seconds, 1),
        "commit": commit(),
        "environment": environment(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="mutants whose file or passage holds this word")
    parser.add_argument("--by", choices=("tests", "claims", "both"), default="both", help="who is asked")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--part", default="1/1", metavar="I/N", help="every Nth mutant, from the Ith on")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep outcomes here, and ask for the others alone")
    options = parser.parse_args()
    if options.record and options.by != "both":
        parser.error("--record keeps what both say")
    part, parts = (int(word) for word in options.part.split("/"))
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.file + mutant.old][part - 1 :: parts]

    def ask(mutant: Mutant) -> tuple[dict[str, str], float]:
        kept = recorded(options.record).get(digest(asked(mutant))) if options.record else None
        if kept and not {kept["seen_by_tests"], kept["seen_by_verify"]} & {False}:
            return {}, 0.0  # seen before, or by another process by now
        return seen(mutant, by=options.by)

    with ThreadPoolExecutor(max_workers=options.jobs) as pool:
        results: list[tuple[str, str]] = []
        for mutant, (outcomes, seconds) in zip(chosen, pool.map(ask, chosen), strict=True):
            if not outcomes:
                continue
            said = ", ".join(f"{who} {outcome}" for who, outcome in outcomes.items())
            change = (mutant.new.strip().splitlines() or ["nothing"])[0]
            print(f"{said:32} {seconds:5.1f} s  {mutant.file}: {change[:90]}", flush=True)
            results += outcomes.items()
            if options.record and not any(said.startswith(UNKNOWN) for said in outcomes.values()):
                record(options.record, [outcome(mutant, outcomes, seconds)])
    for who in dict.fromkeys(who for who, _ in results):
        of = [outcome for name, outcome in results if name == who]
        print(f"{who}: {of.count('killed')} of {len(of)} mutants killed")
    if any(outcome.startswith(UNKNOWN) for _, outcome in results):
        return 2
    return 0 if all(outcome == "killed" for _, outcome in results) else 1


if __name__ == "__main__":
    sys.exit(main())
