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

    delta_chi2: of the runner-up. warning: in words, "" for none. kind: of the best fit.
    """

    curves: tuple[Curve, ...]
    z: float
    second: float
    delta_chi2: float
    warning: str
    kind: str


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
    curves = []
    for scan, chi2 in zip(estimator.scans, estimator.curves(flux, ivar), strict=True):
        z, values = 10 ** scan.log_stretch.numpy() - 1, chi2[0].numpy()
        if config.redshift == REFINE:
            catalog = float(encoding["z"])
            near = np.abs(z - catalog) <= (config.window or 0.0) / C * (1 + catalog)
            z, values = z[near], values[near]
        if len(z):
            curves.append(Curve(scan.kind, z, values))
        if config.redshift == REFINE:
            break
    place = int(encoding["z_fit_class"])
    return Scanned(
        curves=tuple(curves),
        z=float(encoding["z_fit"]),
        second=float(encoding["z_fit_second"]),
        delta_chi2=float(encoding["z_fit_delta_chi2"]),
        warning=describe_warning(int(encoding["z_fit_warning"])),
        kind=encoding["z_fit_class"].attrs["flag_meanings"].split()[place].upper() if place >= 0 else "",
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
    ticks = [z for z in _TICKS if _spans(axes, np.log10(1 + z))]
    axes.set_yscale("log")
    if len(ticks) > 1:
        axes.set_xticks(np.log10(1 + np.array(ticks)), [f"{z:g}" for z in ticks])
    else:  # a window around the catalog's redshift
        middle = float(np.mean(axes.get_xlim()))
        axes.set_xticks([middle], [f"{10**middle - 1:.4f}"])
    axes.set_ylabel(r"$\chi^2$ above" + "\nthe lowest", fontsize=12)
    found = f"{scanned.kind.lower()}, " if scanned.kind else ""
    delta = rf"$\Delta\chi^2$ = {scanned.delta_chi2:.1f}" if np.isfinite(scanned.delta_chi2) else "no runner-up"
    warning = f", {scanned.warning.replace('_', ' ').replace('|', ', ').lower()}" if scanned.warning else ""
    axes.set_xlabel(f"redshift of the templates    ({found}{delta}{warning})", labelpad=2)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.96), ncols=5, frameon=False, fontsize=12, handlelength=1.6)


def _spans(axes: Axes, x: float) -> bool:
    low, high = axes.get_xlim()
    return low <= x <= high
