"""How a redshift was found: chi2 of the templates' fits over all redshifts that were scanned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.planning.redshift import CATALOG, REFINE, describe_warning
from pipeline.store.checkpoint import read_basis
from spender_core.instrument import get_instrument
from spender_core.redshift import C, RedshiftEstimator

_INK, _COLORS = "#1f2933", ("#d1384b", "#34495e", "#8a94a0")
_TICKS = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 4)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pipeline.results.data import RunData

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Curve:
    """chi2 of one kind of templates at the redshifts of its grid, both shape (M,)."""

    kind: str
    z: Floats
    chi2: Floats


@dataclass(frozen=True)
class Scanned:
    """Scan of one spectrum. curves: one per kind of object. z, second: what was found, NaN for nothing.

    delta_chi2: of the runner-up. warning: in words, "" for none. kind: of the best fit. window: where it was to be
    found, None for anywhere.
    """

    curves: tuple[Curve, ...]
    z: float
    second: float
    delta_chi2: float
    warning: str
    kind: str
    window: tuple[float, float] | None = None


def read_scan(run: RunData, row: int, model: str | None = None) -> Scanned | None:
    """Scan a spectrum of a run once more; None where the model takes the catalog's redshifts.

    row: index along `spectrum`. model: name, default the plan's only one. Raises ConfigError where ROOT has lost the
    templates.
    """
    encoding = run.encodings(model).isel(spectrum=row)
    config = run.model(model)
    if config.redshift == CATALOG or config.redshift_range is None:
        return None
    basis = read_basis(run.root, config)
    estimator = RedshiftEstimator(get_instrument(run.plan.config.instrument), basis.templates, config.redshift_range)
    flux, ivar = (torch.from_numpy(np.nan_to_num(encoding[name].to_numpy()))[None] for name in ("flux", "ivar"))
    window = None
    if config.redshift == REFINE:
        catalog = float(encoding["z"])
        reach = (config.window or 0.0) / C * (1 + catalog)
        window = (catalog - reach, catalog + reach)
    compared = estimator.scans if window is None else estimator.scans[:1]
    curves = [
        Curve(scan.kind, 10 ** scan.log_stretch.numpy() - 1, chi2[0].numpy())
        for scan, chi2 in zip(compared, estimator.curves(flux, ivar), strict=False)
    ]
    place = int(encoding["z_fit_class"])
    return Scanned(
        curves=tuple(curves),
        z=float(encoding["z_fit"]),
        second=float(encoding["z_fit_second"]),
        delta_chi2=float(encoding["z_fit_delta_chi2"]),
        warning=describe_warning(int(encoding["z_fit_warning"])),
        kind=encoding["z_fit_class"].attrs["flag_meanings"].split()[place].upper() if place >= 0 else "",
        window=window,
    )


def draw_scan(axes: Axes, scanned: Scanned) -> None:
    """Draw chi2 above its lowest value along redshift, for each kind of templates, and the runner-up."""
    axes.spines[["top", "right"]].set_visible(False)
    lowest = min((float(curve.chi2.min()) for curve in scanned.curves), default=0.0)
    for curve, color in zip(scanned.curves, _COLORS, strict=False):
        stretch, above = np.log10(1 + curve.z), np.maximum(curve.chi2 - lowest, 1.0)
        axes.plot(stretch, above, color=color, lw=0.8, label=curve.kind.lower())
    for z, style, name in ((scanned.z, "-", "best"), (scanned.second, (0, (4, 4)), "runner-up")):
        if np.isfinite(z):
            axes.axvline(np.log10(1 + z), color=_INK, lw=0.9, ls=style, zorder=0.5, label=f"{name}: z = {z:.5f}")
    if scanned.window is not None and np.isfinite(scanned.window).all():
        for z in scanned.window:
            axes.axvline(np.log10(1 + z), color=_COLORS[2], lw=0.9, ls=":", zorder=0.4)
        axes.plot([], [], color=_COLORS[2], lw=0.9, ls=":", label="window")
    low, high = axes.get_xlim()
    ticks = [z for z in _TICKS if low <= np.log10(1 + z) <= high]
    axes.set_yscale("log")
    axes.set_xticks(np.log10(1 + np.array(ticks)), [f"{z:g}" for z in ticks])
    axes.set_ylabel(r"$\chi^2$ above" + "\nthe lowest", fontsize=12)
    found = f"{scanned.kind.lower()}, " if scanned.kind else ""
    delta = rf"$\Delta\chi^2$ = {scanned.delta_chi2:.1f}" if np.isfinite(scanned.delta_chi2) else "no runner-up"
    warning = f", {scanned.warning.replace('_', ' ').replace('|', ', ').lower()}" if scanned.warning else ""
    axes.set_xlabel(f"redshift of the templates    ({found}{delta}{warning})", labelpad=2)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.96), ncols=5, frameon=False, fontsize=12, handlelength=1.6)
