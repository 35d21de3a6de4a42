"""Texts of figures that never touch another one: they shrink, and wrap, until they fit; and what they say."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.results.figures import style
from pipeline.results.spectrum import Spectrum
from pipeline.spectra.quality import Quality

STEP = 0.94
"""Factor by which a text shrinks at a time."""

NO_RESTFRAME = Quality.NO_REDSHIFT | Quality.NO_OVERLAP | Quality.NEGATIVE_AMPLITUDE
"""Bits that mean "no restframe"."""


def fit(text: Text, width: float, least: float, height: float | None = None) -> Text:
    """Shrink a text until it is at most so wide, in pixels, and wrap it where it would become smaller than `least`.

    least: smallest size, points. height: of all lines, pixels; a text that is higher even so is cut, and ends in "...".
    """
    words, size = text.get_text(), float(text.get_fontsize())
    while text.get_window_extent().width > width and size * STEP >= least:
        size *= STEP
        text.set_fontsize(size)
    extent = text.get_window_extent()
    if extent.width <= width:
        return text
    letters = max(int(len(words) * width / extent.width * 0.97), 1)
    lines = textwrap.wrap(words, letters)
    text.set_text("\n".join(lines))
    while height is not None and len(lines) > 1 and text.get_window_extent().height > height:
        lines = lines[:-1]
        text.set_text("\n".join([*lines[:-1], f"{lines[-1][: max(letters - 4, 1)]} ..."]))
    return text


def heading(figure: Figure, place: tuple[float, float, float], spectrum: Spectrum, sizes: tuple[float, float]) -> None:
    """Write whose spectrum it is, and below it the remarks.

    place: left end, right end and height of the line, in parts of the figure. sizes: of the title and of the facts,
    points; both shrink together until there is room between them. The remarks have two lines below.
    """
    left, right, top = place
    name = figure.text(left, top, title(spectrum), fontsize=sizes[0], color=style.INK, weight="bold")
    said = figure.text(right, top, facts(spectrum), fontsize=sizes[1], color=style.INK, ha="right")
    width, share = figure.bbox.width * (right - left), 1.0
    while name.get_window_extent().width + said.get_window_extent().width > 0.93 * width and share > 0.1:
        share *= STEP
        name.set_fontsize(sizes[0] * share)
        said.set_fontsize(sizes[1] * share)
    if spectrum.quality:
        below = top - 0.32 * sizes[0] / 72 / figure.get_figheight()
        text = figure.text(left, below, remarks(spectrum.quality), fontsize=0.8 * sizes[1], color="#7a1f2b", va="top")
        fit(text, width, 0.55 * sizes[1], height=1.55 * sizes[1] / 72 * figure.dpi)


def title(spectrum: Spectrum) -> str:
    """Return whose spectrum it is: its class and its key."""
    return f"{spectrum.object_class.strip() or 'spectrum'} {spectrum.target}"


def facts(spectrum: Spectrum) -> str:
    """Return redshift, S/N, how well the model fits, and which model it is."""
    z = "z fitted" if spectrum.z_is_fitted else "z"  # the class is the catalog's
    parts = [f"{z} = {spectrum.z:.4f}" if np.isfinite(spectrum.z) else "z unknown"]
    if np.isfinite(spectrum.sn_median):
        parts.append(f"S/N = {spectrum.sn_median:.1f}")
    used = np.isfinite(spectrum.residual)
    if used.any():
        parts.append(rf"$\chi^2/n$ = {np.mean(spectrum.residual[used] ** 2):.2f}")
    # mathematics would begin at a $ in a name
    parts.append(spectrum.model.replace("$", r"\$") if spectrum.model else "no model")
    return "    ".join(parts)


def remarks(quality: int) -> str:
    """Return the names of quality bits in plain words."""
    return Quality.describe(quality).replace("_", " ").replace("|", ", ").lower()


def reason(spectrum: Spectrum) -> str:
    """Return why a spectrum has no reconstruction."""
    if not spectrum.model:
        return "no model has encoded it yet"
    if spectrum.unusable:
        return f"no latents: {remarks(spectrum.unusable)}"
    if spectrum.quality & int(NO_RESTFRAME):
        return f"no restframe: {remarks(spectrum.quality & int(NO_RESTFRAME))}"
    return "the run has no restframe spectra to reconstruct from"
