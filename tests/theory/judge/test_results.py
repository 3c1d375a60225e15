"""Results are data: what is handed over comes back from a file as it was, and what cannot be drawn is refused."""

import dataclasses
import json

import numpy as np
import pytest

from theory.judge.results import (
    EXACT,
    Agreement,
    Axis,
    Band,
    Curve,
    Estimate,
    Forest,
    HeatMap,
    Mark,
    Profile,
    Role,
    Sample,
    SmallMultiples,
    Stack,
    Table,
    TimeCourse,
    read_result,
)

MEASURED = Curve(
    role=Role.MEASURED, subject="λ₁", x=np.arange(3), y=(1, 2, 3), low=(0, 1, 2), high=(2, 3, 4), band=Band.INTERVAL
)
COURSE = TimeCourse(
    title="t",
    sample=Sample(20_000, "replicas"),
    x=Axis("time", "epochs"),
    y=Axis("σ²"),
    curves=(MEASURED, Curve(role=Role.PREDICTED, subject="λ₁", x=(0, 0.5), y=(1, 1), by="(T1)")),
    decays=(1.0,),
    marks=(Mark(2.0, "end"),),
)
RESULTS = (
    COURSE,
    Profile(title="p", sample=EXACT, x=Axis("ηλ"), y=Axis("error"), curves=(MEASURED,), caption="c"),
    Agreement(title="a", sample=EXACT, quantity=Axis("σ²"), curves=(MEASURED,), within=(0.8, 1.25)),
    Forest(
        title="f",
        sample=EXACT,
        x=Axis("Δ ln λ"),
        estimates=(Estimate(category="AT", value=0.3, low=0.1, high=0.5, band=Band.INTERVAL),),
        margins=(0.2,),
        null=0.0,
    ),
    Stack(
        title="s",
        sample=EXACT,
        x=Axis("ln ratio"),
        estimates=(
            Estimate(category="before", subject="drift", value=-0.3),
            Estimate(category="before", subject="rest", value=0.1),
            Estimate(category="after", subject="drift", value=0.2),
        ),
        margins=(-0.2, 0.2),
    ),
    HeatMap(
        title="h",
        sample=EXACT,
        x=Axis("regime"),
        y=Axis("μ"),
        value=Axis("ln ratio"),
        columns=("a", "b"),
        rows=(0.0, 0.9),
        cells=((0.1, None), (-0.2, 0.3)),
        center=0.0,
        contour=0.05,
    ),
    SmallMultiples(title="m", sample=EXACT, names=("one", "two"), panels=(COURSE, COURSE)),
    Table(title="t", columns=("a", "b"), rows=((1.5, "x"), (None, "y")), sample=Sample(3, "seeds")),
)


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.kind)
def test_a_result_comes_back_from_json_as_it_was(result):
    assert read_result(json.loads(json.dumps(dataclasses.asdict(result)))) == result


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Curve(role=Role.MEASURED, x=(1, 2), y=(1,)), "one length"),
        (lambda: Curve(role=Role.MEASURED, x=(1,), y=(float("nan"),)), "finite"),
        (lambda: Curve(role=Role.MEASURED, x=(1,), y=(1,), low=(0,), high=(2,)), "low, high and band together"),
        (lambda: Curve(role=Role.MEASURED, x=(1,), y=(1,), low=(0,), band=Band.RANGE), "low, high and band together"),
        (lambda: Estimate(category="c", value=1, low=0), "low, high and band together"),
        (lambda: dataclasses.replace(COURSE, curves=()), "empty"),
        (lambda: Sample(0, "seeds"), "≥ 1"),
        (lambda: Sample(1, ""), "say what"),
        (lambda: SmallMultiples(title="m", sample=EXACT, names=("one",), panels=(COURSE, COURSE)), "a name for each"),
        (lambda: SmallMultiples(title="m", sample=EXACT, names=("1", "2"), panels=RESULTS[:2]), "of one kind"),
        (lambda: dataclasses.replace(RESULTS[5], cells=((1.0, 2.0),)), "2 × 2"),
        (lambda: dataclasses.replace(RESULTS[4], estimates=RESULTS[4].estimates[:1] * 2), "names of their own"),
        (lambda: dataclasses.replace(RESULTS[4], estimates=RESULTS[3].estimates), "names of their own"),
        (lambda: read_result({"kind": "pie"}), "pie"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_spread_is_no_error():
    assert not Band.RANGE.is_error
    assert Band.INTERVAL.is_error
    assert str(Sample(20_000, "replicas")) == "n = 20\u202f000 replicas"
    assert str(Axis("KL", "nats")) == "KL (nats)"
