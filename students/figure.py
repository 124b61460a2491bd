"""Draw docs/images/error-and-speed-{light,dark}.svg: force error and speed of the bundled students.

Errors come from the metrics in this folder, speeds from benchmarks/results/speeds.json.
"""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from table import HERE, speeds

SYSTEMS = {
    "silicon": "silicon crystal (SevenNet-0)",
    "licl": "LiCl, crystal and melt (CHGNet)",
    "cu111": "copper surface (SevenNet-0)",
    "water": "liquid water (SO3LR)",
    "3bpa": "3BPA, a molecule (SO3LR)",
}
MARKERS = {"tiny": ("o", "77K"), "ultra-tiny": ("s", "21K")}
#: Okabe and Ito's colours, which readers with any colour vision tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#56B4E9", "#CC79A7")
THEMES = {"light": ("#1f2328", "#d0d7de"), "dark": ("#e6edf3", "#3d444d")}


def draw(ink: str, grid: str, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7.2, 3.9), layout="constrained")
    measured = speeds()
    for colour, (name, label) in zip(COLOURS, SYSTEMS.items(), strict=True):
        metrics = json.loads((HERE / f"{name}.json").read_text())
        points = []
        for preset, (marker, _) in MARKERS.items():
            errors = metrics[preset]["test"]["all"]
            # RMSE over the root mean square of the teacher's forces
            points.append(
                (measured[f"{name}-{preset}"]["speedup_vs_teacher"], 100 * sqrt(1 - errors["force_r2"]))
            )
            axes.plot(*points[-1], marker, color=colour, ms=8, zorder=3)
        axes.plot(*zip(*points, strict=True), "-", color=colour, lw=1.5, label=label)
    axes.plot(1, 0, "*", color=ink, ms=15, zorder=3, clip_on=False)
    axes.annotate("the teachers", (1, 0), (12, 6), textcoords="offset points", color=ink)
    axes.set(xscale="log", xlim=(0.8, 3000), ylim=(0, 6))
    axes.set_xlabel("times as fast as its teacher (CPU, 2 threads, about 100 atoms)", color=ink)
    axes.set_ylabel("force error on the test set, %", color=ink)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(color=grid, lw=0.7)
    axes.tick_params(colors=ink, which="both")
    for spine in axes.spines.values():
        spine.set_color(grid)
    for preset, marker in MARKERS.items():
        axes.plot(
            [], [], marker, color=ink, label=f"{preset} ({'77K' if preset == 'tiny' else '21K'} parameters)"
        )
    axes.legend(loc="upper left", frameon=False, labelcolor=ink, fontsize=9)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "limbeck", "svg.fonttype": "none", "font.family": "sans-serif"}
    )
    folder = HERE.parent / "docs" / "images"
    folder.mkdir(exist_ok=True)
    for theme, (ink, grid) in THEMES.items():
        draw(ink, grid, folder / f"error-and-speed-{theme}.svg")


if __name__ == "__main__":
    main()
