"""Charts: round ticks, points where they belong, nothing lost or invented when thinned out."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsm_jax.reporting.curves import Series, compact_number, line_chart, nice_ticks, thin_out


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_evenly_spaced_and_inside(low, width):
    ticks = nice_ticks(low, low + width)
    assert 3 <= len(ticks) <= 8
    assert low - 1e-6 * width <= ticks[0] and ticks[-1] <= low + width * (1 + 1e-6)
    step = ticks[1] - ticks[0]
    np.testing.assert_allclose(np.diff(ticks), step, rtol=1e-6, atol=1e-9)
    assert round(step / 10 ** np.floor(np.log10(step) + 1e-6), 3) in (1, 2, 5)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.05, "0.05"), (12000, "12k"), (2.5e6, "2.5M"), (999, "999"), (-1500, "-1.5k")]
)
def test_tick_labels_are_short(value, text):
    assert compact_number(value) == text


def test_thinning_keeps_the_mean_and_drops_what_is_not_finite():
    xs, ys = np.arange(1000.0), np.random.default_rng(0).normal(size=1000)
    thin = thin_out(Series("a", xs, ys), most=100)
    assert len(thin.xs) == 100
    assert np.mean(thin.ys) == pytest.approx(ys.mean())
    assert thin_out(Series("a", [1, 2, 3], [1.0, float("nan"), 2.0])) == Series("a", [1, 3], [1.0, 2.0])


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def test_a_chart_is_well_formed_and_escapes_its_texts():
    chart = parse(line_chart("<b>&", [Series("<i>", [0, 1, 2], [3.0, 1.0, 2.0]), Series("b", [1], [2.0])]))
    assert chart.find("figcaption").text == "<b>&"
    assert [span.text for span in chart.iter("span")] == ["<i>", "b"]
    assert len(list(chart.iter("polyline"))) == 2
    assert len(list(chart.iter("circle"))) == 1  # a single point would be invisible as a line


def test_higher_values_are_drawn_higher_and_all_inside():
    svg = line_chart("a", [Series("", [0, 50, 100], [5.0, -3.0, 9.0])])
    points = re.search(r'points="([^"]+)"', svg).group(1)
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, pair.split(","))) for pair in points.split())
    assert x0 < x1 < x2 and y2 < y0 < y1
    assert all(0 <= x <= 420 for x in (x0, x2)) and all(0 <= y <= 240 for y in (y1, y2))


@pytest.mark.parametrize("ys", [[2.0], [0.0, 0.0], [1e-9, 1e-9, 1e-9]])
def test_constant_values_have_axes_too(ys):
    parse(line_chart("a", [Series("", list(range(len(ys))), ys)]))


def test_no_points_no_chart():
    assert line_chart("a", [Series("", [], []), Series("", [1], [float("nan")])]) == ""
