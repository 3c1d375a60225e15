"""What networks were trained on is said from the records: images, runs, seeds, and how near the edge they were."""

import dataclasses

import pytest

from empirical.records import Spectrum
from reports.findings import background, findings, markdown
from reports.seen import Images, Seen, seen_in
from tests.empirical.record_making import spectrum
from tests.reports.samples import verdict
from tests.reports.test_findings import row, spike
from theory.judge.verdict import About, Kind, Outcome

DIGITS = Images(
    name="digits",
    size=(8, 8),
    runs=frozenset({("at", 6, "a"), ("awp", 6, "b"), ("at", 7, "c")}),
    sizes=frozenset({300}),
)


def test_images_runs_seeds_and_methods_are_counted():
    seen = Seen(images={"networks": (DIGITS,)})
    assert seen.words == (
        "Networks here saw 8×8 images of scikit-learn's digits in 3 runs (AT and AWP; seeds 6 and 7; 300 training "
        "images), and nothing larger."
    )
    mixed = dataclasses.replace(DIGITS, runs=frozenset({("at", 6, "a")}), sizes=frozenset({300, 1200}))
    assert mixed.counted == "1 run (AT; seed 6; 300 to 1200 training images)"
    assert Seen().words == ""


def test_where_a_spike_could_hardly_appear_is_where_the_interval_lies_below_the_limit():
    near = Seen(shares=((1.4, 1.2, 1.7), (0.9, 0.8, 1.1)))
    assert (
        near.words == "Before the first decay batch sharpness is 0.9 to 1.4 × the limit 2(1−μ)/η that the decay lifts."
    )
    far = Seen(shares=((1.4, 1.2, 1.7), (0.5, 0.4, 0.6)))
    assert "in 1 of 2 runs it is below that limit" in far.words and "could hardly appear" in far.words


def test_folders_that_saw_the_same_images_are_told_together():
    clean = dataclasses.replace(DIGITS, runs=frozenset({("standard", 10, "d")}), sizes=frozenset({200}))
    seen = Seen(images={"map": (clean,), "networks": (DIGITS,)})
    assert "in 4 runs (AT, AWP and standard training; seeds 6, 7 and 10; 200 to 300 training images)" in seen.words
    assert seen.words.count("8×8") == 1


def test_the_row_of_a_statement_says_on_which_images_it_was_judged():
    results = {"networks": [spike("a", 0.8, Outcome.REFUTED)], "theory": [verdict("stationary-commuting", ())]}
    found = findings(results, Seen(images={"networks": (DIGITS,)}))
    assert row(found, "the spike of curvature").sure.endswith("on 8×8 images of scikit-learn's digits")
    assert "images" not in row(found, "the stationary law on quadratics").sure


def test_the_evidence_of_a_folder_is_read_and_a_folder_without_is_a_log_of_others(tmp_path):
    record = spectrum(12)
    record.to_evidence().write(tmp_path / "networks")
    logged = dataclasses.replace(
        verdict("robust-overfitting", (), kind=Kind.HYPOTHESIS), about=About(name="x", runs=("rice/svhn_standard",))
    )
    results = {"networks": [spike("a", 0.8, Outcome.REFUTED)], "logs": [logged]}
    seen = seen_in(tmp_path, results)
    (images,) = seen.images["networks"]
    assert isinstance(record, Spectrum) and images.name == record.dataset
    assert images.size == tuple(record.training.network.image_shape[1:]) and len(images.runs) == 1
    assert seen.logged == {"svhn": frozenset({"rice/svhn_standard"})}
    assert "Of SVHN there are losses in public logs (1 run), and no curvature." in background(seen)
    assert str(images) in markdown(results, seen)


def test_before_a_decay_the_last_checkpoint_says_how_near_the_edge_is(tmp_path):
    record = spectrum(12)
    decay = record.training.decays[0][0]
    for iteration, share in ((1, 3.0), (decay, 0.5), (decay + 1, 7.0)):
        limit = record.sharpness.small_batch_limit
        sharp = dataclasses.replace(
            record.sharpness, value=share * limit, low=0.9 * share * limit, high=1.1 * share * limit
        )
        dataclasses.replace(record, iteration=iteration, sharpness=sharp).to_evidence().write(tmp_path / "networks")
    ((share, low, high),) = seen_in(tmp_path, {"networks": []}).shares
    assert (share, low, high) == pytest.approx((0.5, 0.45, 0.55))
