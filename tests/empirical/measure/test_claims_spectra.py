"""Claims about measured networks on evidence with a known truth: supported where built in, refuted where not."""

import dataclasses

import numpy as np
import pytest

from empirical.claims import collect, posterior, regimes, spectra
from empirical.settings.controls import CONTROLS
from tests.empirical.record_making import EPOCHS, ensemble, expansion, spectrum, study
from tests.empirical.record_making import spectra as run
from theory.judge.results import Agreement, Band, SmallMultiples, Stack, Table, TimeCourse
from theory.judge.terminal import tally
from theory.judge.verdict import Outcome

CLAIMS = spectra.CLAIMS + posterior.CLAIMS + regimes.CLAIMS
BY_NAME = {entry.claim.name: entry for entry in CLAIMS}


def table(verdict):
    """The rows of its table."""
    (found,) = (result for result in verdict.results if isinstance(result, Table))
    return found.rows


def judge(name, records):
    entry = BY_NAME[name]
    return [entry.judge(subject) for subject in entry.subjects(records)]


@pytest.mark.parametrize(
    ("name", "truth", "lie"),
    [
        ("curvature-spike-early", {"spike": 2.0}, {"spike": 1.0}),
        ("curvature-spike-late", {"spike": 2.0}, {"spike": 0.6}),
        ("noise-spike-early", {"noise_spike": 2.0}, {"noise_spike": 0.9}),
        ("noise-spike-late", {"noise_spike": 2.0}, {"noise_spike": 0.9}),
        ("posterior-shrink-beyond-rate-early", {"spike": 2.0}, {"noise_spike": 2.0}),
        ("posterior-shrink-beyond-rate-late", {"spike": 2.0}, {"spike": 2.0, "noise_spike": 2.0}),
    ],
)
def test_a_spike_is_found_where_there_is_one_and_refuted_where_not(name, truth, lie):
    (verdict,) = judge(name, run(**truth))
    assert verdict.outcome is Outcome.SUPPORTED, verdict.note
    assert all(decoy.outcome is Outcome.REFUTED for decoy in verdict.decoys)
    assert any(isinstance(result, TimeCourse) and result.decays == (48.0,) for result in verdict.results)
    (verdict,) = judge(name, run(**lie))
    assert verdict.outcome is Outcome.REFUTED, verdict.note


@pytest.mark.parametrize("when", ["early", "late"])
def test_growth_that_has_nothing_to_do_with_the_decay_is_taken_out(when):
    lam = np.array([8.0, 6, 4, 3, 2, 1])
    steady = [spectrum(epoch, lam=lam * 1.06**epoch, gamma=lam) for epoch in EPOCHS]
    (verdict,) = judge(f"curvature-spike-{when}", steady)
    assert verdict.outcome is not Outcome.SUPPORTED
    assert abs(verdict.estimate) < 0.1, "six per cent an epoch is a trend"


def test_at_a_placebo_alone_nothing_is_found_and_the_decoy_sees_what_happens_there():
    lam = np.array([8.0, 6, 4, 3, 2, 1])
    early_jump = [spectrum(epoch, lam=lam * (2 if epoch > 24 else 1), gamma=lam) for epoch in EPOCHS]
    (verdict,) = judge("curvature-spike-early", early_jump)
    assert verdict.outcome is Outcome.REFUTED and verdict.decoys[0].outcome is not Outcome.REFUTED
    assert "would have been supported with chance" in verdict.note


def test_windows_that_a_stage_cannot_hold_are_not_applicable_with_the_reason():
    few = [item for item in run(spike=2.0) if item.epoch not in (22, 23, 24)]
    (verdict,) = judge("curvature-spike-early", few)
    assert verdict.outcome is Outcome.NOT_APPLICABLE and "placebo before" in verdict.note
    (verdict,) = judge("curvature-spike-early", [spectrum(epoch) for epoch in (22, 25, 46, 49, 120)])
    assert verdict.outcome is Outcome.NOT_APPLICABLE and "too few checkpoints" in verdict.note


def test_the_windows_belong_to_the_definition():
    early, late = (BY_NAME[f"curvature-spike-{when}"].claim for when in ("early", "late"))
    assert early.windows and late.windows and early.windows != late.windows
    assert dataclasses.replace(early, windows=("epochs 1 to 3",)).digest != early.digest


def test_the_shrink_is_attributed_to_the_learning_rate_when_noise_and_curvature_move_together():
    (verdict,) = judge("posterior-shrink-beyond-rate-early", run(spike=2.0, noise_spike=2.0))
    assert verdict.outcome is Outcome.REFUTED
    assert "the shrink is the learning rate's" in verdict.note
    rows = {row[0]: row[1] for row in table(verdict)}
    assert rows["learning rate"] == pytest.approx(np.log(0.1))
    parts = sum(value for name, value in rows.items() if name != "total")
    assert parts == pytest.approx(rows["total"], abs=1e-12)


def test_curvature_that_adds_to_the_shrink_is_said():
    (verdict,) = judge("posterior-shrink-beyond-rate-early", run(spike=4.0))
    assert "curvature and noise add" in verdict.note


def test_commutativity_needs_both_the_price_and_the_cosines():
    (verdict,) = judge("commutativity", run())
    assert verdict.outcome is Outcome.SUPPORTED, verdict.note
    assert verdict.decoys[0].outcome is Outcome.REFUTED
    (verdict,) = judge("commutativity", run(cosines=0.2))
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


def several_pairs(**changes):
    lam = np.array([8.0, 6, 4, 3, 2, 1])
    made = [item for seed in range(3) for item in run(seed=seed, **changes)]
    return made + [
        spectrum(epoch, lam=lam / 3, gamma=lam / 3, method="awp", seed=seed) for seed in range(3) for epoch in EPOCHS
    ]


def test_methods_are_overlaid_over_seeds_through_the_decay():
    records = several_pairs()
    pooled = judge("awp-flattens", records)[-1]
    (found,) = pooled.results
    assert isinstance(found, SmallMultiples)
    assert found.names == ("curvature λ", "gradient noise γ", "batch sharpness", "predicted variance σ²")
    for panel in found.panels:
        assert isinstance(panel, TimeCourse) and panel.decays == (48.0,) and str(panel.sample) == "n = 3 seeds"
        at, awp = panel.curves[:2]
        assert (at.subject, awp.subject) == ("AT", "AWP")
        assert (at.band, at.over) == (Band.STANDARD_ERROR, "seeds")
    at = found.panels[0].curves[0]
    logs = [[np.log(item.curvatures).mean() for item in run(seed=seed)] for seed in range(3)]
    assert np.allclose(np.log(at.y), np.mean(logs, axis=0))
    assert np.allclose(np.log(at.high) - np.log(at.y), np.std(logs, axis=0, ddof=1) / np.sqrt(3))
    edge = found.panels[2].curves[-1]
    assert edge.by == "2(1−μ)/η" and edge.y[0] == pytest.approx(2.0), "a decay lifts it beyond the picture"
    terms = judge("awp-tightens-pac-bayes", records)[-1].results[0]
    assert isinstance(terms, SmallMultiples) and len(terms.panels) == 3


def test_what_moved_the_variance_is_stacked_run_by_run_and_sums_to_the_whole():
    records = [item for seed in range(3) for item in run(spike=2.0, noise_spike=2.0, seed=seed)]
    *each, pooled = judge("posterior-shrink-beyond-rate-early", records)
    (chart,) = pooled.results
    assert isinstance(chart, Stack)
    assert {one.subject for one in chart.estimates} == {"learning rate", "noise γ", "curvature λ", "step size ηλ"}
    for seed, verdict in enumerate(each):
        total = sum(one.value for one in chart.estimates if one.category == f"seed {seed}")
        assert total == pytest.approx({row[0]: row[1] for row in table(verdict)}["total"])


def two_modes(records):
    """The same runs measured in two batch-norm modes."""
    seen = []
    for mode in ("eval", "frozen-batch"):
        for item in records:
            seen.append(
                dataclasses.replace(
                    item, has_batch_norm=True, measurement=dataclasses.replace(item.measurement, batch_norm=mode)
                )
            )
    return seen


def few_checkpoints(**changes):
    return [spectrum(epoch, **changes) for epoch in (46, 47, 48, 49, 50, 53, 60, 72)]


def test_pairs_measured_in_two_modes_are_pooled_apart():
    lam = np.array([8.0, 6, 4, 3, 2, 1])
    pairs = [
        item
        for seed in range(3)
        for item in few_checkpoints(seed=seed) + few_checkpoints(seed=seed, method="awp", lam=lam / 3)
    ]
    verdicts = judge("awp-flattens", two_modes(pairs))
    pooled = [verdict for verdict in verdicts if verdict.about.pooled]
    assert [len(verdict.about.runs) for verdict in pooled] == [6, 6], "three pairs a mode, not six"
    assert len({verdict.subject for verdict in verdicts}) == len(verdicts) == 8
    assert "one of 2 such statements" in pooled[0].note
    assert tally(verdicts).total() == 3


def test_a_control_is_never_taken_for_a_network():
    control = CONTROLS[0].training()
    item = dataclasses.replace(spectrum(48), training=control)
    entry = BY_NAME["alignment"]
    assert list(entry.subjects_in([item])) == []
    assert list(entry.subjects_in([spectrum(48)]))
    longer = dataclasses.replace(item, training=dataclasses.replace(control, log_window=7))
    assert list(entry.subjects_in([longer])), "only the declared controls are"


def test_a_run_that_learned_nothing_is_not_called_flat():
    (verdict,) = judge("awp-flattens", pair(flatter=50.0, learned=0.11))
    assert verdict.outcome is Outcome.NOT_APPLICABLE
    assert "never learned" in verdict.note


def test_several_seeds_are_judged_by_their_own_spread():
    evidence = [item for seed in range(4) for item in run(spike=2.0, seed=seed)]
    verdicts = judge("curvature-spike-early", evidence)
    assert [verdict.outcome for verdict in verdicts] == [Outcome.SUPPORTED] * 5
    assert verdicts[-1].subject == "digits at (method) · decay 1"
    few = [item for seed in range(2) for item in run(spike=2.0, seed=seed)]
    assert judge("curvature-spike-early", few)[-1].outcome is Outcome.NOT_APPLICABLE


def test_a_map_over_regimes_finds_that_the_spike_needs_a_loss_to_fit():
    evidence = []
    for index in range(8):
        evidence += run(spike=1 + 0.3 * index, train_loss=0.01 + 0.1 * index, seed=index, label_noise=0.02 * index)
    (verdict,) = judge("spike-regime-early", evidence)
    assert verdict.outcome is Outcome.SUPPORTED, verdict.note
    assert len(table(verdict)) == 8
    assert verdict.decoys[0].outcome is Outcome.REFUTED


@pytest.mark.parametrize("name", ["posterior-ensemble", "transient-ensemble"])
def test_an_ensemble_with_the_predicted_spread_supports_the_law_and_refutes_the_decoys(name):
    (verdict,) = judge(name, [ensemble()])
    assert verdict.outcome is Outcome.SUPPORTED, verdict.note
    assert all(decoy.outcome is Outcome.REFUTED for decoy in verdict.decoys)
    assert any("predicted transient" in result.title for result in verdict.results)
    assert any(isinstance(result, Agreement) and result.within == (1 / 1.5, 1.5) for result in verdict.results)
    (verdict,) = judge(name, [ensemble(factor=3.0)])
    assert verdict.outcome is Outcome.REFUTED


@pytest.mark.parametrize("name", ["transient-ensemble", "transient-robust-curvature"])
def test_an_ensemble_that_ignores_the_drop_refutes_the_transient(name):
    (verdict,) = judge(name, [ensemble(obeys_drop=False)])
    assert verdict.outcome is Outcome.REFUTED


def test_replicas_that_feel_the_robust_curvature_support_it_and_leave_nothing_to_say_of_fixed_inputs():
    outcomes = {
        name: judge(name, [ensemble(robust=3.0)])[0]
        for name in (
            "robust-curvature",
            "posterior-ensemble",
            "posterior-robust-curvature",
            "transient-robust-curvature",
        )
    }
    assert [verdict.outcome for verdict in outcomes.values()] == [
        Outcome.REFUTED,
        Outcome.NOT_APPLICABLE,
        Outcome.SUPPORTED,
        Outcome.SUPPORTED,
    ]
    assert "3.00 ×" in outcomes["robust-curvature"].note and "3.00 ×" in outcomes["posterior-ensemble"].note
    assert all(decoy.outcome is Outcome.REFUTED for verdict in outcomes.values() for decoy in verdict.decoys)
    (verdict,) = judge("robust-curvature", [ensemble()])
    assert verdict.outcome is Outcome.SUPPORTED and verdict.decoys[0].outcome is Outcome.REFUTED


def test_a_measured_spread_that_falls_as_predicted_supports_the_shrink_whatever_its_level():
    for factor in (1.0, 3.0):
        (verdict,) = judge("posterior-shrink-measured", [ensemble(factor=factor)])
        assert verdict.outcome is Outcome.SUPPORTED, verdict.note
        assert {decoy.name: decoy.outcome for decoy in verdict.decoys} == {
            "no shrink": Outcome.REFUTED,
            "the full ratio of the rates at once": Outcome.REFUTED,
        }
        assert any("Measured variance" in result.title for result in verdict.results)
    (verdict,) = judge("posterior-shrink-measured", [ensemble(obeys_drop=False)])
    assert verdict.outcome is Outcome.REFUTED
    (verdict,) = judge("posterior-shrink-measured", [ensemble(replicas=16)])
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_an_ensemble_without_the_curvature_of_the_robust_loss_is_not_applicable():
    (verdict,) = judge("posterior-robust-curvature", [ensemble(with_curvature=False)])
    assert verdict.outcome is Outcome.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("pooled", "half", "outcome"),
    [
        (0.1, 0.05, Outcome.SUPPORTED),
        (-0.6, 0.1, Outcome.REFUTED),
        (0.2, 0.1, Outcome.INCONCLUSIVE),
    ],
)
def test_the_quadratic_approximation_is_judged_by_its_whole_interval(pooled, half, outcome):
    (verdict,) = judge("quadratic-approximation-fixed-inputs", [expansion(pooled, half)])
    assert verdict.outcome is outcome


def test_the_three_expansions_are_judged_apart():
    found = expansion(0.05, 0.02)
    apart = dataclasses.replace(found.studies, top_attacked=study(0.9, 0.1), path=study(-0.5, 0.1))
    item = dataclasses.replace(found, studies=apart)
    names = ("fixed-inputs", "attacked", "path")
    outcomes = [judge(f"quadratic-approximation-{name}", [item])[0].outcome for name in names]
    assert outcomes == [Outcome.SUPPORTED, Outcome.REFUTED, Outcome.REFUTED]


def test_where_no_regime_spikes_nothing_orders_the_spike():
    flat = []
    for index in range(6):
        flat += run(spike=1.05, train_loss=0.01 + 0.1 * index, seed=index, label_noise=0.02 * index)
    (verdict,) = judge("spike-regime-early", flat)
    assert verdict.outcome is Outcome.NOT_APPLICABLE and "none of 6 regimes" in verdict.note


def test_every_claim_has_a_decoy_and_the_register_holds_them_all():
    assert all(entry.claim.decoys for entry in CLAIMS)
    register = collect(("logs", "spectra", "posterior", "regimes"))
    names = {entry.claim.name for entry in register.claims}
    assert set(BY_NAME) <= names and not register.missing
