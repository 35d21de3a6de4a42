"""Spectral lines that figures mark."""

from __future__ import annotations

Lines = tuple[tuple[str, tuple[float, ...]], ...]
"""Labels and wavelengths of lines, in the order of wavelength."""

EMISSION_LINES: Lines = (
    (r"Ly$\alpha$", (1215.67,)),
    ("C IV", (1549.48,)),
    ("C III]", (1908.73,)),
    ("Mg II", (2799.12,)),
    ("[O II]", (3727.09, 3729.88)),
    ("[Ne III]", (3869.81,)),
    (r"H$\delta$", (4102.89,)),
    (r"H$\gamma$", (4341.68,)),
    (r"H$\beta$", (4862.68,)),
    ("[O III]", (4960.30, 5008.24)),
    ("[O I]", (6302.05,)),
    (r"H$\alpha$, [N II]", (6549.86, 6564.61, 6585.27)),
    ("[S II]", (6718.29, 6732.67)),
)
"""Label and wavelengths, vacuum Angstrom, of lines drawn from above (SDSS DR7 table of galaxy lines, linestable)."""

ABSORPTION_LINES: Lines = (
    ("Ca K, H", (3934.78, 3969.59)),
    ("G", (4305.61,)),
    ("Mg b", (5176.63,)),
    ("Na D", (5895.60,)),
    ("Ca II", (8500.36, 8544.44, 8664.52)),
)
"""The same of absorption lines, drawn from below."""

_SEVERAL = {r"H$\alpha$, [N II]": ("[N II]", "Halpha", "[N II]"), "Ca K, H": ("Ca K", "Ca H")}


def plain(label: str) -> str:
    """Return a label without the marks of mathematics: Halpha."""
    return label.replace("$", "").replace("\\", "")


NAMED: tuple[tuple[str, float], ...] = tuple(
    pair
    for label, wavelengths in (*EMISSION_LINES, *ABSORPTION_LINES)
    for pair in zip(_SEVERAL.get(label, [plain(label)] * len(wavelengths)), wavelengths, strict=True)
)
"""Each line with its own name and wavelength."""
