import dataclasses
import itertools
import re

import numpy as np
import pytest

from t2ilab.eval import curves
from t2ilab.eval.result import Evaluation, Metric, Stratum
from t2ilab.eval.svg import Axis, Series, line_chart, log_ticks, round_ticks, thinned, tick_text


def test_a_step_logged_twice_counts_once_and_blanks_are_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss,eval/judge/overall,note\n10,2.0,,x\n20,1.5,0.4,\n20,1.0,,\n30,nan,,\n")
    columns = curves.read_metrics(path)
    assert columns["train/loss"].step.tolist() == [10, 20]
    assert columns["train/loss"].value.tolist() == [2.0, 1.0]
    assert columns["eval/judge/overall"].value.tolist() == [0.4]
    assert "note" not in columns


def test_running_mean_keeps_lines_and_does_not_lag_at_the_start():
    line = np.linspace(5, 1, 101)
    smooth = curves.smooth(line, 10)
    assert np.allclose(smooth[:91], line[:91])
    noise = np.random.default_rng(0).normal(size=4000)
    assert curves.smooth(noise, 50)[100:].std() < 0.2
    assert curves.smooth(line, 10).shape == line.shape


def test_charts_of_nothing_are_empty():
    assert curves.loss_chart({}) == curves.bin_chart({}) == curves.quality_chart({}) == ""
    assert curves.density_chart({}) == curves.time_chart(None) == curves.time_chart(Evaluation({})) == ""
    assert curves.nfe_quality_chart([]) == curves.nfe_error_chart([]) == ""


def losses(*values):
    """An evaluation with the held-out loss of four ranges of noise levels."""
    metrics = {
        f"loss/t{k / 4:.2f}-{(k + 1) / 4:.2f}": Metric(value, value - 0.1, value + 0.1, 9, "")
        for k, value in enumerate(values)
    }
    return Evaluation(metrics | {"loss/heldout": Metric(9.0, None, None, 9, "")})


def test_long_numbers_beside_an_axis_leave_room_for_its_name():
    svg = line_chart([Series([0, 1], [0.0021, 0.0064])], Axis("step"), Axis("rate"))
    ticks = re.findall(r'class="tick" x="([\d.]+)" y="[\d.]+" text-anchor="end">([^<]+)<', svg)
    assert max(len(text) for _, text in ticks) == 5 and "translate(12 " in svg
    assert all(
        float(x) - 6.5 * len(text) >= 18 for x, text in ticks
    )  # the name is turned, 12 high, around 12


def points(svg):
    return [tuple(map(float, m)) for m in re.findall(r'"point" cx="([\d.]+)" cy="([\d.]+)" r', svg)]


def test_the_loss_of_each_noise_level_stands_in_the_middle_of_its_range_with_its_interval():
    svg = curves.time_chart(losses(1.0, 0.8, 0.7, 0.9))
    assert re.findall(r"<title>([^<]*)</title>", svg) == [
        "1 at 0.125",
        "0.8 at 0.375",
        "0.7 at 0.625",
        "0.9 at 0.875",
    ]
    assert svg.count("whisker") == 4
    x = [place for place, _ in points(svg)]
    ends = [float(place) for place in re.findall(r'class="axis" x1="([\d.]+)" x2="\1"', svg)]
    assert len(ends) == 5 and x == pytest.approx([(a + b) / 2 for a, b in itertools.pairwise(ends)], abs=0.11)
    both = curves.time_chart(losses(1.0, 0.8, 0.7, 0.9), losses(1.1, 0.9, 0.8, 1.0), "parent")
    assert both.count("<title>parent: ") == both.count("<title>this run: ") == 4


def test_where_the_strata_are_known_each_has_a_point_in_place_of_the_ranges():
    strata = [
        Stratum(k / 8, (k + 1) / 8, Metric(2 + k / 8, 1.9 + k / 8, 2.2 + k / 8, 9, "")) for k in range(8)
    ]
    evaluation = dataclasses.replace(losses(1.0, 0.8, 0.7, 0.9), strata=tuple(strata))
    svg = curves.time_chart(evaluation)
    notes = re.findall(r"<title>([\d.]+) at ([\d.]+)</title>", svg)
    assert [(float(value), float(t)) for value, t in notes] == [(2 + k / 8, (k + 0.5) / 8) for k in range(8)]
    assert svg.count("whisker") == 8
    both = curves.time_chart(evaluation, losses(1.1, 0.9, 0.8, 1.0), "parent")
    assert (both.count("<title>parent: "), both.count("<title>this run: ")) == (4, 8)


def test_losses_over_many_powers_of_ten_stand_on_a_logarithmic_axis():
    y = np.array([place for _, place in points(curves.time_chart(losses(0.5, 5.0, 50.0, 500.0)))])
    assert np.allclose(np.diff(y), np.diff(y)[0], atol=0.2)


def test_the_density_of_the_times_is_drawn_from_zero_with_the_times_of_the_sampler_on_the_axis():
    density = {"training": [(t, 2 * t) for t in np.linspace(0, 1, 50).tolist()]}
    svg = curves.density_chart(density, [1.0, 0.5])
    line = re.search(r'd="M([^"]*)"', svg)[1].split("L")
    bottom = float(line[0].split()[1])
    assert float(line[-1].split()[1]) < bottom
    assert [place for _, place in points(svg)] == [bottom, bottom]
    assert ">training<" in svg and ">sampler<" in svg
    assert ">training<" not in curves.density_chart(density)


def test_each_phase_has_a_density_in_a_shade_of_its_own_with_its_name():
    ends = (0.0, 1.0)
    density = {"low": [(t, 2 * t) for t in ends], "full": [(t, 2 - 2 * t) for t in ends]}
    svg = curves.density_chart(density)
    shades = re.findall(r'<g class="(r\d)"><path class="line" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg)
    names = dict(re.findall(r'class="name (r\d)"[^>]*>(\w+)<', svg))
    assert [names[shade] for shade, *_ in shades] == ["low", "full"]
    rises = [float(end) < float(start) for _, _, start, _, end in shades]
    assert rises == [True, False], "upwards on the page is less"


def test_the_losses_of_the_students_rivals_are_drawn_beside_its_own():
    def column(*values):
        return curves.Column(np.arange(1.0, 1 + len(values)), np.array(values))

    alone = {"train/loss": column(1.0, 0.8, 0.5), "train/kl": column(0.1, 0.1, 0.1)}
    assert 'class="name' not in curves.loss_chart(alone)
    svg = curves.loss_chart(alone | {"train/critic/loss": column(0.9, 0.95, 1.0)})
    named = re.findall(r'class="name (c\d)"[^>]*>(\w+)<', svg)
    assert sorted(named) == [("c1", "train"), ("c2", "critic")]


def test_higher_values_stand_higher_and_later_ones_further_right():
    svg = line_chart([Series([1, 2, 3], [0.1, 0.9, 0.4], points=True)], Axis("x"), Axis("y"))
    places = [tuple(map(float, m)) for m in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert places[0][0] < places[1][0] < places[2][0]
    assert places[1][1] < places[2][1] < places[0][1]


def test_logarithmic_axes_put_equal_factors_at_equal_distances():
    svg = line_chart(
        [Series([1, 2, 4, 8], [1, 10, 100, 1000], points=True)], Axis("x", log=True), Axis("y", log=True)
    )
    x, y = np.array([tuple(map(float, m)) for m in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]).T
    assert np.allclose(np.diff(x), np.diff(x)[0], atol=0.2)
    assert np.allclose(np.diff(y), np.diff(y)[0], atol=0.2)


def test_a_mark_stands_where_its_value_is():
    line = [Series([0, 10, 20], [1, 3, 2], points=True)]
    svg = line_chart(line, Axis("step", marks={10: "second <phase>"}), Axis("loss"))
    at = re.findall(r'class="mark" x1="([\d.]+)" x2="([\d.]+)"', svg)
    middle = re.findall(r'cx="([\d.]+)"', svg)[1]
    assert [float(x) for x in at[0]] == [float(middle)] * 2 and "second &lt;phase&gt;</text>" in svg
    assert 'class="mark"' not in line_chart(line, Axis("step"), Axis("loss"))


def test_the_charts_of_the_loss_mark_the_phases():
    column = curves.Column(np.arange(1, 9.0), np.linspace(2, 1, 8))
    columns = {"train/loss": column, "train/loss_t0.00-0.25": column}
    for chart in (curves.loss_chart, curves.bin_chart):
        assert chart(columns, {4: "full"}).count('class="mark"') == 1
        assert 'class="mark"' not in chart(columns)


def test_names_at_line_ends_do_not_overlap():
    lines = [Series([0, 1], [0, 1 + k / 1000], f"line {k}") for k in range(5)]
    svg = line_chart(lines, Axis("x"), Axis("y"))
    places = sorted(float(y) for y in re.findall(r'class="name c1" x="[\d.]+" y="(-?[\d.]+)"', svg))
    assert len(places) == 5
    assert min(np.diff(places)) > 14


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, 2500, [0, 500, 1000, 1500, 2000, 2500])],
)
def test_ticks_are_round(low, high, ticks):
    assert round_ticks(low, high) == pytest.approx(ticks)


def test_log_ticks_exist_for_wide_and_narrow_ranges():
    assert log_ticks(1e-4, 1) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert len(log_ticks(0.3, 1.7)) >= 3


def test_tick_texts_are_short():
    values = {2500: "2.5k", 0: "0", 0.25: "0.25", 2e6: "2M", 1e-5: "1e-5"}
    assert {value: tick_text(value) for value in values} == values
    assert tick_text(0.75, percent=True) == "75%"


def test_long_series_are_thinned_without_losing_their_mean():
    series = thinned(Series(list(range(9_000)), np.arange(9_000.0).tolist()))
    assert len(series.x) == 300
    assert np.mean(series.y) == pytest.approx(4499.5)


def test_a_line_without_marks_tells_its_values_under_the_pointer():
    columns = {"train/loss": curves.Column(np.arange(10.0, 2010, 10), np.linspace(1, 0.5, 200))}
    svg = curves.loss_chart(columns)
    told = re.findall(r'<circle class="hover"[^>]*><title>([^<]*)</title>', svg)
    assert 30 <= len(told) <= 101
    assert told[0].endswith("at 10") and told[-1].endswith("at 2000")
    assert not points(svg)
