"""The stored coverage of the gate's intervals is complete and says which of them fall short; its code still runs."""

import json

import pytest

from tests import gate_coverage


@pytest.fixture(scope="module")
def stored():
    return json.loads(gate_coverage.STORED.read_text())


def test_stored_coverage_is_of_twelve_kinds_and_names_what_falls_short(stored):
    assert len(stored["models"]) >= 12 and set(stored["models"]) <= set(gate_coverage.MODELS)
    assert stored["pooled"] == json.loads(json.dumps(gate_coverage.pooled(stored["models"])))
    rates = {name: item["rate"] for name, item in stored["pooled"].items()}
    low, high = gate_coverage.WANTED
    assert stored["within"] == [name for name in gate_coverage.JUDGED if low <= rates[name] <= high]
    # What the report of a gate says of its intervals.
    from empirical.measure import assumptions

    said = " ".join(assumptions.__doc__.split())
    for name, words in (("noise", "of γ"), ("price", "of the price")):
        assert (rates[name] >= low) == (f"{words} are too short" not in said), (name, rates[name], said)


def test_the_method_was_chosen_on_other_models(stored):
    held_out = stored["held_out"]
    assert set(held_out["models"]) == set(gate_coverage.HELD_OUT) and not set(held_out["models"]) & set(
        stored["models"]
    )
    for part, names in ((held_out["pooled"], ("noise", "price")), (stored["pooled"], ("price",))):
        for name in names:
            assert part[name]["rate"] > part[f"{name} of the same samples"]["rate"], (name, part)


def test_a_draw_is_judged_against_its_pool():
    pool = gate_coverage.Pool("ridge")
    found = gate_coverage.repeat(pool, 0)
    assert set(found) == set(gate_coverage.QUANTITIES) and len(found["curvature"]) == gate_coverage.TRACKED
    assert sum(found["curvature"]) >= 2
    # Ridge has one Hessian: what the pool says of it is what its inputs say.
    x = pool.x.numpy()
    import numpy as np

    whole = np.hstack([x, np.ones((len(x), 1))])
    np.testing.assert_allclose(pool.curvatures, np.linalg.eigvalsh(whole.T @ whole / len(x))[::-1][:3], rtol=1e-10)
