"""What reports share in drawing: colours that can be seen, and panels that keep their size."""

import re

import pytest

from megatron_prealign.reports.page import STYLES, draw_panels, layer_colors


def luminance(color: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2)."""
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("color", sorted({*(str(style["color"]) for style in STYLES), *layer_colors(26)}))
def test_colors_stand_out_on_white_and_on_near_black(color: str) -> None:
    dark = luminance("#121212")
    assert 1.05 / (luminance(color) + 0.05) >= 3
    assert (luminance(color) + 0.05) / (dark + 0.05) >= 3


def test_lines_are_told_apart_without_color() -> None:
    assert len({(str(style["linestyle"]), style["marker"]) for style in STYLES}) == len(STYLES)


@pytest.mark.parametrize(("num_panels", "num_rows"), [(1, 1), (3, 1), (4, 2)])
def test_panels_are_drawn_in_rows_with_one_legend(num_panels: int, num_rows: int) -> None:
    names = [f"panel {number}" for number in range(num_panels)]
    svg = draw_panels(names, lambda axes, name: axes.plot([0, 1], [0, 1], label="a run") and axes.set(title=name))
    width, height = map(float, re.findall(r"[\d.]+", re.search(r'viewBox="0 0 ([^"]*)"', svg)[1]))  # type: ignore[index]
    assert (width, height) == pytest.approx((72 * 4.6 * min(num_panels, 3), 72 * 3.3 * num_rows))
    assert svg.count('id="legend') == 1


@pytest.mark.parametrize(("num_runs", "length"), [(2, 8), (7, 24), (3, 30)])
def test_the_legend_stays_inside(num_runs: int, length: int) -> None:
    runs = [f"{number} ".ljust(length, "w") for number in range(num_runs)]
    svg = draw_panels(["a panel"], lambda axes, _: [axes.plot([0, 1], [0, 1], label=run) for run in runs])
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])  # type: ignore[index]
    legend = svg[svg.index('id="legend') :]
    places = [float(place) for place in re.findall(r"translate\(([-\d.]+) [-\d.]+\) scale", legend)]
    assert len(places) >= num_runs
    assert all(0 <= place <= width for place in places)


@pytest.mark.filterwarnings("error:constrained_layout")
def test_a_tall_legend_makes_the_figure_taller() -> None:
    def height(num_runs: int) -> float:
        runs = [f"{number} ".ljust(60, "w") for number in range(num_runs)]
        svg = draw_panels(["a panel"], lambda axes, _: [axes.plot([0, 1], [0, 1], label=run) for run in runs])
        return float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)', svg)[1])  # type: ignore[index]

    assert height(30) > height(2) + 28 * 10
