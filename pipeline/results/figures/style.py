"""Colors, which differ in grey, too, and the format of a figure's file."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pathlib import Path

from matplotlib import patheffects, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.errors import ConfigError

INK, DATA, NOISE, MODEL, MASK, GUIDE = "#1f2933", "#22313f", "#9cc3e6", "#e0484f", "#edebe6", "#8a94a0"
FLUX_LABEL = r"$f_\lambda$  [$10^{-17}$ erg s$^{-1}$ cm$^{-2}$ $\mathrm{\AA}^{-1}$]"


class Picture(Figure):
    """A figure that notebooks show as the last value of a cell, also where pyplot has not been used."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png", dpi=80)
        return stream.getvalue()


def settings() -> AbstractContextManager[None]:
    """Draw with our sizes and colors within the context; our panels have their places, whatever notebooks set."""
    return rc_context(
        {
            "font.size": 13,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "figure.constrained_layout.use": False,
            "figure.autolayout": False,
        }
    )


def halo(width: float) -> list[patheffects.AbstractPathEffect]:
    """Give a line a white rim, which sets it off from others where there is no color."""
    return [patheffects.withStroke(linewidth=width + 1.6, foreground="white", alpha=0.85)]


def file_of(output: str) -> Path:
    """Return the file that a figure is written to. Raises ConfigError for a format that cannot be written."""
    file = Path(output).expanduser()
    formats = FigureCanvasAgg.get_supported_filetypes()
    if file.suffix.lstrip(".").lower() not in formats:
        expected = f"a file ending in one of {', '.join(sorted(formats))}"
        raise ConfigError("output", str(output), expected, "name it *.png")
    return file


def save(figure: Figure, file: Path) -> None:
    """Write a figure, and the folders that it lies in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with settings():
        figure.savefig(file, dpi=150)
