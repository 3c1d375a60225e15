"""Series that belong together look alike, series that do not can be told apart without color."""

from reports.palette import COLORS, legend_of, looks_of
from theory.judge.figure import Figure, Series


def figure(*series: tuple[str, str]) -> Figure:
    drawn = tuple(Series(label=label, x=(1, 2), y=(1, 2), style=style) for label, style in series)  # pyright: ignore
    return Figure(title="t", x_label="x", y_label="y", series=drawn)


def test_a_lone_prediction_is_in_ink_and_what_is_measured_takes_the_first_color():
    looks = looks_of(
        [figure(("decoy", "dashed"), ("closed form (S1)", "line"), ("simulation, 95 % interval", "points"))]
    )
    assert looks["closed form (S1)"].color == COLORS["ink"]
    assert looks["simulation, 95 % interval"].color == COLORS["blue"]
    assert looks["decoy"].color not in (COLORS["ink"], COLORS["blue"])
    assert looks["decoy"].dashes is not None


def test_points_and_line_of_one_subject_share_a_color():
    looks = looks_of(
        [
            figure(
                ("AT predicted", "line"),
                ("AT measured", "points"),
                ("AWP predicted", "line"),
                ("AWP measured", "points"),
            )
        ]
    )
    assert looks["AT predicted"].color == looks["AT measured"].color != looks["AWP measured"].color
    assert looks["AT measured"].marker != looks["AWP measured"].marker


def test_two_lines_of_one_subject_do_not_share_a_color():
    looks = looks_of([figure(("predicted", "line"), ("exact", "line"), ("other", "line"))])
    assert len({look.color for look in looks.values()}) == 3


def test_subjects_times_roles_are_listed_as_their_sum():
    crossed = figure(
        *(
            (f"mode {i}, {role}", style)
            for i in range(3)
            for role, style in (("predicted", "line"), ("simulated", "points"), ("as if settled", "dashed"))
        )
    )
    assert list(legend_of([crossed])) == ["mode 0", "mode 1", "mode 2", "predicted", "simulated", "as if settled"]
    looks = looks_of([crossed])
    assert {looks[f"mode 1, {role}"].color for role in ("predicted", "simulated", "as if settled")} == {
        COLORS["vermilion"]
    }


def test_labels_that_are_no_product_are_listed_one_by_one():
    for series in (
        [("a, predicted", "line"), ("a, simulated", "points"), ("b", "line")],
        [("a, predicted", "line"), ("a, exact", "line"), ("b, predicted", "line"), ("b, exact", "line")],
        [("x = 1, y = 1", "line"), ("x = 2, y = 1", "line")],
    ):
        assert list(legend_of([figure(*series)])) == [label for label, _ in series]
