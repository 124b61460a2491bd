"""Style of figures, and the check for matplotlib."""

from __future__ import annotations

from limbeck.errors import MissingPackageError

DPI = 150
STYLE = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 12,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
BLUE, ORANGE = "#0072b2", "#d55e00"
#: Okabe and Ito's colours, distinct for colour-blind readers
PALETTE = (BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")


def check_matplotlib() -> None:
    """MissingPackageError, before anything is measured, unless matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "plots need matplotlib",
            got="not installed",
            remedy="pip install -c constraints.txt -e '.[plots]'",
        ) from error
