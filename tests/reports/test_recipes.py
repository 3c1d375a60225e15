"""Every kind of result is drawn: scales, panels and looks follow from numbers, roles and subjects."""

import dataclasses
import re

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="figures are drawn with matplotlib: install the extra `report`")

from reports.palette import COLORS
from reports.recipes import agreement, forest, heat_map, stacked
from reports.recipes.canvas import Scale
from reports.recipes.curves import heights, residuals, scales
from reports.recipes.drawing import _own, by_subject, draw, draw_grid
from reports.recipes.looks import MOST, Looks
from reports.recipes.words import describe
from tests.theory.judge.test_results import RESULTS
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
    SmallMultiples,
    Table,
    TimeCourse,
)

CHARTS = [result for result in RESULTS if not isinstance(result, (SmallMultiples, Table))]


def course(*curves: Curve, **more) -> TimeCourse:
    return TimeCourse(title="t", sample=EXACT, x=Axis("epoch"), y=Axis("σ²"), curves=curves, **more)


def curve(role: Role, subject: str = "", by: str = "", n: int = 3, scale: float = 1.0, **more) -> Curve:
    return Curve(role=role, subject=subject, by=by, x=range(n), y=[scale * 10**k for k in range(n)], **more)


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.kind)
def test_every_kind_is_drawn_alone_and_in_a_grid_with_the_same_bytes_twice(chart):
    first, second = draw(chart), draw(chart)
    assert first.svg == second.svg and first.svg.startswith("<?xml")
    assert first.description == describe(chart) and chart.title in first.description
    assert str(chart.sample) in first.description
    grid = draw_grid([("one", chart), ("two", chart), ("three", chart)])
    assert "3 panels (one, two, three)" in grid.description


def test_color_is_the_subjects_where_there_are_several_and_the_roles_where_there_is_one():
    measured, predicted = curve(Role.MEASURED, "a"), curve(Role.PREDICTED, "a")
    alone = Looks((measured, predicted))
    assert alone.of(measured).color == COLORS["blue"] and alone.of(predicted).color == COLORS["ink"]
    other = curve(Role.MEASURED, "b")
    looks = Looks((measured, predicted, other))
    assert looks.of(measured).color == looks.of(predicted).color != looks.of(other).color
    assert looks.of(measured).marker != looks.of(other).marker
    assert [text for text, _ in looks.legend()] == ["a", "b", "measured", "predicted"]


def test_a_method_has_the_same_color_on_every_page():
    for others in ((), ("x",), ("x", "y")):
        curves = [curve(Role.MEASURED, name) for name in (*others, "AWP", "AT")]
        looks = Looks(curves)
        assert looks.of(curves[-1]).color == COLORS["blue"] and looks.of(curves[-2]).color == COLORS["vermilion"]
        assert len({looks.of(one).color for one in curves}) == len(curves)


def test_rivals_of_one_role_are_told_apart_and_named():
    decoys = [curve(Role.DECOY, by=by) for by in ("white noise", "constant C")]
    looks = Looks((curve(Role.MEASURED, band=Band.INTERVAL, low=(0, 1, 2), high=(9, 99, 999)), *decoys))
    assert looks.of(decoys[0]).dashes != looks.of(decoys[1]).dashes
    assert [text for text, _ in looks.legend()] == [
        "measured (95 % interval)", "decoy: white noise", "decoy: constant C",
    ]  # fmt: skip


def test_a_spread_is_called_what_it_is():
    ends = {"low": (0, 1, 2), "high": (9, 99, 999), "band": Band.RANGE, "over": "seeds"}
    looks = Looks((curve(Role.MEASURED, **ends),))
    assert [text for text, _ in looks.legend()] == ["measured (min–max over seeds)"]


def test_more_subjects_than_colors_become_panels_that_keep_the_levels():
    many = [curve(Role.MEASURED, f"mode {i}") for i in range(MOST + 1)]
    chart = course(*many, curve(Role.REFERENCE, by="no effect"))
    panels = by_subject(chart)
    assert [name for name, _ in panels] == [f"mode {i}" for i in range(MOST + 1)]
    assert all(len(panel.curves) == 2 for _, panel in panels)
    assert f"{MOST + 1} panels" in draw(chart).description
    assert "panels" not in draw(course(*many[:MOST])).description


def test_a_logarithmic_axis_comes_with_the_residuals_it_hides():
    ends = {"low": (1.0, 10.0, 100.0), "high": (1.2, 12.0, 120.0), "band": Band.INTERVAL}
    measured, predicted = curve(Role.MEASURED, scale=1.1, **ends), curve(Role.PREDICTED)
    chart = course(measured, predicted)
    (found,) = residuals(chart)
    np.testing.assert_allclose(found.y, 10.0)
    assert len(heights(chart, scales([chart])[1])) == 2
    flat = course(curve(Role.MEASURED, n=2), curve(Role.PREDICTED, n=2))
    assert len(heights(flat, scales([flat])[1])) == 1
    assert residuals(course(curve(Role.MEASURED, "a", **ends), curve(Role.PREDICTED, "b"))) == ()
    assert residuals(course(curve(Role.MEASURED), predicted)) == ()  # no error, so nothing to read it against


@pytest.mark.parametrize(("values", "log"), [((1, 40), True), ((1, 20), False), ((-1, 60), False), ((0, 60), False)])
def test_an_axis_is_logarithmic_where_positive_numbers_span_a_factor_of_thirty(values, log):
    assert Scale.of([values]).log is log
    assert not Scale.of([values], linear=True).log


def test_signed_values_are_mapped_to_both_sides_of_their_center():
    def chart(cells, center):
        return HeatMap(
            title="h", sample=EXACT, x=Axis("x"), y=Axis("y"), value=Axis("v"), columns=(1.0, 2.0), rows=(1.0,),
            cells=(cells,), center=center,
        )  # fmt: skip

    signed = heat_map.color_mapping([chart((-0.1, 3.0), 0.0)])
    assert signed.cmap.name == "PuOr_r" and signed.norm.vmin == -signed.norm.vmax == -3.0
    ratio = heat_map.color_mapping([chart((0.5, 4.0), 1.0)])
    assert ratio.norm.vmin == 0.25 and ratio.norm.vmax == 4.0
    assert heat_map.color_mapping([chart((0.5, 4.0), None)]).cmap.name == "cividis"


def test_categories_are_named_on_the_axes():
    chart = next(one for one in CHARTS if one.kind == "heat map")
    # Every letter is an outline with its character in a comment's place: matplotlib writes the text as a comment.
    assert re.search(r"<!-- a -->", draw(chart).svg) and re.search(r"<!-- b -->", draw(chart).svg)
    forest = next(one for one in CHARTS if one.kind == "forest")
    assert "<!-- AT -->" in draw(forest).svg


def test_units_and_sample_size_stand_on_the_figure():
    svg = draw(CHARTS[0]).svg
    assert "time (epochs)" in svg and "n = 20\u202f000 replicas" in svg
    varied = dataclasses.replace(CHARTS[0], sample=EXACT)
    assert str(EXACT) in draw_grid([("one", CHARTS[0]), ("two", varied)]).svg


def test_a_single_point_without_a_positive_number_is_drawn():
    lone = Curve(role=Role.MEASURED, x=(1,), y=(-1,))
    below = Profile(title="p", sample=EXACT, x=Axis("x"), y=Axis("y"), curves=(lone,))
    draw(below)
    draw_grid([("one", below), ("two", below)])


def test_a_decoy_far_off_does_not_flatten_what_was_measured():
    near, far = curve(Role.DECOY, scale=0.1), curve(Role.DECOY, scale=1e-12)
    _, alone = scales([course(curve(Role.MEASURED))])
    _, scale = scales([course(curve(Role.MEASURED), near)])
    assert scale.low < alone.low and not scale.fixed
    _, scale = scales([course(curve(Role.MEASURED), far)])
    assert scale.fixed and scale.low > 1e-3


@pytest.mark.parametrize(
    ("values", "spacing"),
    [
        ((0.0, 0.5, 1.0, 1.5), "linear"),
        ((1.0, 2.0, 4.0, 8.0), "log"),
        ((0.0, 0.5, 0.9, 0.99), "named"),
        (("a", "b"), "named"),
        (tuple(k**2 for k in range(1, 20)), "log"),
    ],
)
def test_uneven_cells_of_a_small_map_have_one_size_and_their_numbers_on_the_axis(values, spacing):
    assert heat_map._spacing(values) == spacing


def test_parts_of_a_whole_lie_end_to_end_on_either_side_of_zero():
    chart = next(one for one in CHARTS if one.kind == "stack")
    found = [(one.subject, start) for one, start in stacked.segments(chart, "before")]
    assert found == [("drift", 0.0), ("rest", 0.0)]  # one to the left of zero, one to the right
    later = dataclasses.replace(
        chart, estimates=(*chart.estimates, dataclasses.replace(chart.estimates[0], subject="x"))
    )
    assert stacked.segments(later, "before")[-1][1] == pytest.approx(-0.3)
    low, high = stacked.scales([later])[0].low, stacked.scales([later])[0].high
    assert low < -0.6 and high > 0.2


def test_a_level_to_read_by_does_not_set_the_axis():
    near = Curve(role=Role.MEASURED, x=range(3), y=(0.5, 0.7, 0.9))
    level = Curve(role=Role.REFERENCE, x=range(3), y=(0.005, 0.005, 0.006), by="at random")
    assert not scales([course(near, level)])[1].log
    assert scales([course(dataclasses.replace(near, y=(0.01, 0.1, 0.9)), level)])[1].log


def test_a_mark_is_named_once_where_all_panels_have_it():
    marked = course(curve(Role.MEASURED), marks=(Mark(1.0, "the drop"),))
    letters = draw_grid([("a", marked), ("b", marked)]).svg.count("<!-- the drop -->")
    other = dataclasses.replace(marked, marks=(Mark(2.0, "the rise"),))
    assert letters == 1
    svg = draw_grid([("a", marked), ("b", other)]).svg
    assert svg.count("<!-- the drop -->") == svg.count("<!-- the rise -->") == 1


def test_a_band_over_seeds_is_an_area_and_a_standard_error_of_one_number_a_bar():
    ends = {"low": (0, 1, 2), "high": (9, 99, 999), "band": Band.STANDARD_ERROR}
    bar, area = curve(Role.MEASURED, **ends), curve(Role.MEASURED, **ends, over="seeds")
    assert not Looks((bar,)).of(bar).shaded and Looks((area,)).of(area).shaded
    assert Looks((area,)).legend()[0][0] == "measured (± standard error over seeds)"


def test_what_is_far_beyond_all_margins_stands_at_the_edge_with_its_number():
    def estimate(value: float) -> Estimate:
        return Estimate(category=f"{value:g}", value=value)

    def chart(*values: float, margins=(0.8, 1.25)) -> Forest:
        found = tuple(map(estimate, values))
        return Forest(title="f", sample=EXACT, x=Axis("ratio"), estimates=found, margins=margins, null=1.0)

    scale = forest.scales([chart(1.1, 4e7, 2e-9)])[0]
    assert scale.fixed and (scale.low, scale.high) == pytest.approx((0.8 / 100, 125.0))
    svg = draw(chart(1.1, 4e7)).svg
    assert "<!-- 4\u202f×\u202f10⁷ -->" in svg and draw(chart(1.1, 40.0)).svg.count("<!-- 40 -->") == 1
    several = tuple(Estimate(category="a", value=value) for value in (1.1, 4e7, 5e3, 2e6))
    assert "<!-- 5000 to 4\u202f×\u202f10⁷ -->" in draw(dataclasses.replace(chart(1.1), estimates=several)).svg
    assert not forest.scales([chart(1.1, 90.0)])[0].fixed
    assert not forest.scales([chart(1.1, 4e7, margins=())])[0].high < 100


def test_the_ends_of_intervals_lie_on_the_axes_of_an_agreement():
    points = Curve(role=Role.MEASURED, x=(1.0, 2.0), y=(1.0, 2.0), low=(0.5, 1.0), high=(4.0, 9.0), band=Band.INTERVAL)
    found = Agreement(title="a", sample=EXACT, quantity=Axis("σ²"), curves=(points,))
    assert agreement.scales([found])[0].high >= 9.0
    below = dataclasses.replace(points, x=(1.0, 100.0), y=(1.0, 100.0), low=(-1.0, 50.0), high=(2.0, 200.0))
    assert agreement.scales([dataclasses.replace(found, curves=(below,))])[0].log


def test_panels_of_different_quantities_have_axes_of_their_own():
    few = course(curve(Role.MEASURED, n=2, scale=1.0))
    many = dataclasses.replace(few, curves=(Curve(role=Role.MEASURED, x=(0, 1), y=(0.1, 0.2)),))
    assert scales([few, many])[1].log and not scales([many])[1].log
    assert "{0.15}" in draw_grid([("few", few), ("many", many)]).svg
    wide = dataclasses.replace(few, curves=(Curve(role=Role.MEASURED, x=(0, 1), y=(0.01, 0.15)),))
    assert _own(wide, scales([few, wide])[1]).log and not _own(many, scales([few, many])[1]).log
    assert not _own(wide, scales([wide, many])[1]).log, "no panel is logarithmic where the family is not"
