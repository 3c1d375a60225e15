"""Claims about measured networks on evidence with a known truth: supported where built in, refuted where not."""

import numpy as np
import pytest

from empirical.claims import collect, posterior, regimes, spectra
from empirical.measure.posterior import shuffled_transient_variance
from empirical.settings import make_training
from theory.judge.evidence import Evidence
from theory.judge.verdict import Outcome
from theory.model.optimizer import MomentumSGD

CLAIMS = spectra.CLAIMS + posterior.CLAIMS + regimes.CLAIMS
BY_NAME = {entry.claim.name: entry for entry in CLAIMS}
EPOCHS = (0, 12, 24, 36, 46, 47, 48, 49, 50, 53, 60, 72, 84, 96, 108, 120)
K, N = 6, 400


def trained(method="at", **changes):
    """120 epochs of 10 iterations, one decay at iteration 480."""
    changes = {"milestones": (48.0,), "weight_decay": 5e-4} | changes
    training = make_training("digits-cpu", method, changes)
    assert training.iterations_per_epoch == 10 and training.decays == ((480, 0.1, pytest.approx(0.01)),)
    return training


def spectrum(epoch, *, lam, gamma, method="at", seed=0, wobble=0.01, learned=0.9, gap=0.1, train_loss=0.5, setting=0):
    """One checkpoint's evidence: eigenvalues and noise as asked for, samples that scatter about them."""
    rng = np.random.default_rng([epoch, seed, 7])
    common = np.random.default_rng([seed, 8]).standard_normal((N, K))
    spread = np.exp(wobble * rng.standard_normal())
    lam, gamma = np.sort(lam)[::-1] * spread, np.sort(gamma)[::-1] * spread
    projections = (common + 0.1 * rng.standard_normal((N, K))) * np.sqrt(gamma)
    projections *= np.sqrt(gamma / projections.var(axis=0, ddof=1))
    iteration = epoch * 10
    rate = 0.1 if iteration <= 480 else 0.01
    side = {"robust_loss": train_loss, "robust_accuracy": learned, "clean_loss": 0.1, "clean_accuracy": 0.99}
    measured = {
        "epoch": epoch,
        "iteration": iteration,
        "learning_rate": rate,
        "data_digest": "d",
        "batch_norm": "eval",
        "has_batch_norm": False,
        "units": "samples",
        "num_samples": N,
        "noise_factor": 1 / 32,
        "gamma": {"low": (gamma * 0.9).tolist(), "high": (gamma * 1.1).tolist()},
        "alignment": {
            "chi": {"value": 0.95, "low": None, "high": None},
            "chi_bulk": None,
            "chi_null": 0.01,
            "chi_null_quantile": 0.02,
            "cosine": {"value": 0.8},
            "cosine_null": 0.0,
            "direction_cosines": [0.95] * K,
            "direction_errors": [0.01] * K,
            "direction_null": 0.05,
            "overlap": 0.9,
            "overlap_size": 3,
        },
        "gap": {"train": side, "test": side, "robust_loss_gap": gap},
        "weights": {"norm": 10.0},
        "prior_variance": 0.01,
    }
    arrays = {
        "eigenvalues": lam,
        "gamma": projections.var(axis=0, ddof=1),
        "projections": projections,
        "curvature_samples": lam * (1 + 0.3 * common[:, ::-1]),
        "displacement": np.full(K, 0.1),
    }
    training = trained(method, train_size=300 + setting)
    plain = {"measurement": {"groups": 0}, "training": training.to_dict(), "iteration": iteration}
    return Evidence(experiment="spectrum", setting=plain, seed=seed, measured=measured, arrays=arrays)


def run(spike=1.0, noise_spike=1.0, **changes):
    """A run whose λ and γ jump by the factors given at the decay, and stay put otherwise."""
    lam, gamma = np.array([8.0, 6, 4, 3, 2, 1]), np.array([4.0, 3, 2, 1.5, 1, 0.5])
    return [
        spectrum(
            epoch, lam=lam * (spike if epoch > 48 else 1), gamma=gamma * (noise_spike if epoch > 48 else 1), **changes
        )
        for epoch in EPOCHS
    ]


def judge(name, evidence):
    entry = BY_NAME[name]
    return [entry.judge(subject) for subject in entry.subjects(evidence)]


@pytest.mark.parametrize(
    ("name", "truth", "lie"),
    [
        ("curvature-spike", {"spike": 2.0}, {"spike": 1.0}),
        ("curvature-spike", {"spike": 1.6}, {"spike": 0.6}),
        ("noise-spike", {"noise_spike": 2.0}, {"noise_spike": 0.9}),
    ],
)
def test_a_spike_is_found_where_there_is_one_and_refuted_where_not(name, truth, lie):
    (verdict,) = judge(name, run(**truth))
    assert verdict.outcome is Outcome.SUPPORTED, verdict.note
    assert all(decoy.outcome is Outcome.REFUTED for decoy in verdict.decoys)
    assert verdict.figures
    (verdict,) = judge(name, run(**lie))
    assert verdict.outcome is Outcome.REFUTED, verdict.note


def test_growth_that_has_nothing_to_do_with_the_decay_is_not_called_a_spike():
    lam = np.array([8.0, 6, 4, 3, 2, 1])
    steady = [spectrum(epoch, lam=lam * 1.06**epoch, gamma=lam) for epoch in EPOCHS]
    (verdict,) = judge("curvature-spike", steady)
    assert verdict.outcome is not Outcome.SUPPORTED
    assert verdict.decoys[0].outcome is not Outcome.REFUTED


def test_the_shrink_is_attributed_to_the_learning_rate_when_noise_and_curvature_move_together():
    (verdict,) = judge("posterior-shrink", run(spike=2.0, noise_spike=2.0))
    assert verdict.outcome is Outcome.SUPPORTED
    assert "the shrink is the learning rate's" in verdict.note
    rows = {row[0]: row[1] for row in verdict.tables[0].rows}
    assert rows["learning rate"] == pytest.approx(np.log(0.1))
    parts = sum(value for name, value in rows.items() if name != "total")
    assert parts == pytest.approx(rows["total"], abs=1e-12)


def test_curvature_that_adds_to_the_shrink_is_said():
    (verdict,) = judge("posterior-shrink", run(spike=4.0))
    assert "curvature and noise add" in verdict.note


def test_commutativity_needs_both_the_price_and_the_cosines():
    (verdict,) = judge("commutativity", run())
    assert verdict.outcome is Outcome.SUPPORTED, verdict.note
    assert verdict.decoys[0].outcome is Outcome.REFUTED
    turned = run()
    for item in turned:
        item.measured["alignment"]["direction_cosines"] = [0.2] * K
    (verdict,) = judge("commutativity", turned)
    assert verdict.outcome is Outcome.REFUTED


def test_alignment_follows_the_slope_of_noise_on_curvature():
    (verdict,) = judge("alignment", run())
    assert verdict.outcome is Outcome.SUPPORTED
    assert verdict.estimate == pytest.approx(0.95, abs=0.15)
    flat = [spectrum(e, lam=np.array([8.0, 6, 4, 3, 2, 1]), gamma=np.linspace(1.05, 1, 6)) for e in EPOCHS]
    (verdict,) = judge("alignment", flat)
    assert verdict.outcome is Outcome.REFUTED


def pair(flatter=3.0, learned=0.9):
    lam = np.array([8.0, 6, 4, 3, 2, 1])
    awp = [spectrum(e, lam=lam / flatter, gamma=lam / flatter, method="awp", learned=learned) for e in EPOCHS]
    return run() + awp


@pytest.mark.parametrize("name", ["awp-flattens", "awp-quiets-noise"])
def test_methods_are_compared_in_pairs_and_the_swap_is_refuted(name):
    (verdict,) = judge(name, pair())
    assert verdict.outcome is Outcome.SUPPORTED, verdict.note
    assert verdict.decoys[0].outcome is Outcome.REFUTED
    (verdict,) = judge(name, pair(flatter=1 / 3))
    assert verdict.outcome is Outcome.REFUTED


def test_a_run_that_learned_nothing_is_not_called_flat():
    (verdict,) = judge("awp-flattens", pair(flatter=50.0, learned=0.11))
    assert verdict.outcome is Outcome.NOT_APPLICABLE
    assert "never learned" in verdict.note


def test_several_seeds_are_judged_by_their_own_spread():
    evidence = [item for seed in range(4) for item in run(spike=2.0, seed=seed)]
    verdicts = judge("curvature-spike", evidence)
    assert [verdict.outcome for verdict in verdicts] == [Outcome.SUPPORTED] * 5
    assert verdicts[-1].subject == "digits at (method) · decay 1"
    few = [item for seed in range(2) for item in run(spike=2.0, seed=seed)]
    assert judge("curvature-spike", few)[-1].outcome is Outcome.NOT_APPLICABLE


def test_a_map_over_regimes_finds_that_the_spike_needs_a_loss_to_fit():
    evidence = []
    for index in range(8):
        evidence += run(spike=1 + 0.3 * index, train_loss=0.01 + 0.1 * index, seed=index, setting=index)
    (verdict,) = judge("spike-regime", evidence)
    assert verdict.outcome is Outcome.SUPPORTED, verdict.note
    assert len(verdict.tables[0].rows) == 8
    assert verdict.decoys[0].outcome is Outcome.REFUTED


def ensemble(factor=1.0, obeys_drop=True, replicas=256, robust=1.0):
    """Replicas that obey (P1) at ``robust`` times the Hessian's curvature."""
    optimizer = MomentumSGD(0.1, 0.9)
    lam, gamma = np.array([3.0, 1.0, 0.5]), np.array([2.0, 1.0, 0.4])
    rates = np.r_[np.full(24, 0.1), np.full(24, 0.01)]
    steps = np.arange(3, 49, 3)
    true = rates if obeys_drop else np.full(48, 0.1)
    variance = shuffled_transient_variance(
        robust * lam, gamma, optimizer, true, [32] * 10, num_samples=320, repeated_share=0.9, record=steps.tolist()
    )
    draws = np.random.default_rng(0).standard_normal((len(steps), replicas, 3))
    measured = {
        "epoch": 48,
        "learning_rate": 0.1,
        "batch_sizes": [32] * 10,
        "start_position": 0,
        "num_samples": 320,
        "sampling": "shuffle",
        "drop": 24,
        "curvature_step": 0.05,
    }
    scatter = np.random.default_rng(1).standard_normal((320, 3))
    samples = lam * (1 + 0.3 * (scatter - scatter.mean(axis=0)))
    arrays = {
        "curvatures": lam,
        "slope_variances": gamma,
        "repeated_share": np.full(3, 0.9),
        "mean_slope": np.zeros(3),
        "momentum": np.zeros(3),
        "steps": steps,
        "positions": draws * np.sqrt(factor * variance)[:, None, :],
        "learning_rates": rates,
        "curvature_samples": samples,
        "fixed_curvature_samples": samples,
        "robust_curvature_samples": robust * samples,
    }
    plain = {"training": trained(weight_decay=0.0).to_dict()}
    return [Evidence(experiment="ensemble", setting=plain, seed=0, measured=measured, arrays=arrays)]


@pytest.mark.parametrize("name", ["posterior-ensemble", "transient-ensemble"])
def test_an_ensemble_with_the_predicted_spread_supports_the_law_and_refutes_the_decoys(name):
    (verdict,) = judge(name, ensemble())
    assert verdict.outcome is Outcome.SUPPORTED, verdict.note
    assert all(decoy.outcome is Outcome.REFUTED for decoy in verdict.decoys)
    assert any("predicted transient" in figure.title for figure in verdict.figures)
    (verdict,) = judge(name, ensemble(factor=3.0))
    assert verdict.outcome is Outcome.REFUTED


@pytest.mark.parametrize("name", ["transient-ensemble", "transient-robust-curvature"])
def test_an_ensemble_that_ignores_the_drop_refutes_the_transient(name):
    (verdict,) = judge(name, ensemble(obeys_drop=False))
    assert verdict.outcome is Outcome.REFUTED


def test_replicas_that_feel_the_robust_curvature_support_it_and_refute_the_hessian_at_fixed_inputs():
    outcomes = {
        name: judge(name, ensemble(robust=3.0))[0]
        for name in (
            "robust-curvature",
            "posterior-ensemble",
            "posterior-robust-curvature",
            "transient-robust-curvature",
        )
    }
    assert [verdict.outcome for verdict in outcomes.values()] == [
        Outcome.REFUTED,
        Outcome.REFUTED,
        Outcome.SUPPORTED,
        Outcome.SUPPORTED,
    ]
    assert "3.00 ×" in outcomes["robust-curvature"].note
    assert all(decoy.outcome is Outcome.REFUTED for verdict in outcomes.values() for decoy in verdict.decoys)
    (verdict,) = judge("robust-curvature", ensemble())
    assert verdict.outcome is Outcome.SUPPORTED and verdict.decoys[0].outcome is Outcome.REFUTED


def test_an_ensemble_without_the_curvature_of_the_robust_loss_is_not_applicable():
    evidence = ensemble()
    del evidence[0].arrays["robust_curvature_samples"]
    (verdict,) = judge("posterior-robust-curvature", evidence)
    assert verdict.outcome is Outcome.NOT_APPLICABLE


def expansion(pooled, half):
    study = {
        "pooled": pooled,
        "pooled_low": pooled - half,
        "pooled_high": pooled + half,
        "radii": [0.1],
        "relative": [pooled],
        "low": [pooled - half],
        "high": [pooled + half],
    }
    plain = {"training": trained().to_dict()}
    measured = {"epoch": 48, "studies": {"top": study, "smooth top": study}}
    return [Evidence(experiment="expansion", setting=plain, seed=0, measured=measured)]


@pytest.mark.parametrize(
    ("pooled", "half", "outcome"),
    [
        (0.1, 0.05, Outcome.SUPPORTED),
        (-0.6, 0.1, Outcome.REFUTED),
        (0.2, 0.1, Outcome.INCONCLUSIVE),
    ],
)
def test_the_quadratic_approximation_is_judged_by_its_whole_interval(pooled, half, outcome):
    (verdict,) = judge("quadratic-approximation", expansion(pooled, half))
    assert verdict.outcome is outcome


def test_every_claim_has_a_decoy_and_the_register_holds_them_all():
    assert all(entry.claim.decoys for entry in CLAIMS)
    register = collect(("logs", "spectra", "posterior", "regimes"))
    names = {entry.claim.name for entry in register.claims}
    assert set(BY_NAME) <= names and not register.missing
