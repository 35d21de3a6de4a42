"""The density of a model's latents: how common a spectrum is in the sample that a flow was trained on.

A density belongs to one checkpoint: the latents of another mean something else.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .flow import AffineFlow, Flow, SplineFlow
from .weights import PUBLISHED, PUBLISHED_FLOWS, WeightsError, read_flow

FORMAT = "spender-density"
VERSION = 1

NODES = 64
"""Points of a spectrum's uncertainty at which the density is taken."""

MOST_BINS = 8
LEAST_IN_BIN = 250

_SEED = 20
# fine where rare spectra are: down to one in 100,000
_LEVELS = np.concatenate([[0.0], np.logspace(-5, -2, 61)[:-1], np.linspace(0.01, 1.0, 199)])


@dataclass(frozen=True)
class Percentiles:
    """How log p is distributed in a sample, as a table of quantiles; the same in bins of the spectra's S/N.

    levels: shape (K,), shares of the sample from 0 to 1. quantiles: shape (K,), log p below which such a share lies.
    edges: shape (B + 1,), S/N at which bins begin and end, the outer ones infinite; by_bin: shape (B, K). Both are
    empty where S/N is not known.
    """

    levels: NDArray[np.float64]
    quantiles: NDArray[np.float64]
    edges: NDArray[np.float64]
    by_bin: NDArray[np.float64]

    @classmethod
    def of(cls, log_prob: NDArray[np.floating[Any]], sn: NDArray[np.floating[Any]] | None = None) -> Self:
        """Make the tables of a sample. log_prob: shape (N,), finite. sn: shape (N,), NaN where it is not known."""
        quantiles = np.quantile(log_prob.astype(np.float64), _LEVELS)
        known = np.zeros(len(log_prob), np.bool_) if sn is None else np.isfinite(sn)
        if sn is None or not known.any():
            return cls(_LEVELS, quantiles, np.empty(0), np.empty((0, len(_LEVELS))))
        bins = max(1, min(MOST_BINS, int(known.sum()) // LEAST_IN_BIN))
        inner = np.unique(np.quantile(sn[known].astype(np.float64), np.linspace(0, 1, bins + 1)[1:-1]))
        edges = np.concatenate([[-np.inf], inner, [np.inf]])
        place = np.digitize(sn[known], inner)
        by_bin = [np.quantile(log_prob[known][place == i].astype(np.float64), _LEVELS) for i in np.unique(place)]
        if len(by_bin) < len(edges) - 1:  # many spectra of one S/N
            return cls(_LEVELS, quantiles, np.array([-np.inf, np.inf]), quantiles[None])
        return cls(_LEVELS, quantiles, edges, np.array(by_bin))

    def percentile(self, log_prob: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return which percentage of the sample is rarer, 0 to 100, NaN for NaN; shape (N,)."""
        return _place(log_prob, self.quantiles, self.levels)

    def percentile_at(
        self, log_prob: NDArray[np.floating[Any]], sn: NDArray[np.floating[Any]] | None
    ) -> NDArray[np.float32]:
        """Return which percentage of the sample's spectra of like S/N is rarer; NaN where S/N is not known."""
        found = np.full(len(log_prob), np.nan, np.float32)
        if sn is None or not len(self.edges):
            return found
        bins = np.digitize(sn, self.edges[1:-1])
        for i, quantiles in enumerate(self.by_bin):
            own = np.isfinite(sn) & (bins == i)
            found[own] = _place(log_prob[own], quantiles, self.levels)
        return found

    def to_entries(self) -> dict[str, Tensor]:
        """Return the tables as a file keeps them."""
        return {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in _TABLES}

    @classmethod
    def from_entries(cls, entries: Mapping[str, Tensor]) -> Self:
        """Read what `to_entries` made."""
        return cls(**{name: entries[name].numpy() for name in _TABLES})


_TABLES = ("levels", "quantiles", "edges", "by_bin")


def _place(
    log_prob: NDArray[np.floating[Any]], quantiles: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float32]:
    distinct, first = np.unique(quantiles, return_index=True)
    found = 100 * np.interp(log_prob.astype(np.float64), distinct, levels[first])
    return np.where(np.isnan(log_prob), np.nan, found).astype(np.float32)


@dataclass(frozen=True)
class Density:
    """A flow, and what it is a density of.

    model_sha256: of the checkpoint that gave the latents; None where the file does not say. model: name of it, of a
    published flow. held_out, training: percentiles of the two parts of the sample that it was trained on, None where
    they are not known. facts: what its file says beside: the sample, settings, versions.
    """

    flow: Flow
    model_sha256: str | None = None
    model: str | None = None
    held_out: Percentiles | None = None
    training: Percentiles | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def n_latent(self) -> int:
        """Number of latents."""
        return self.flow.n_latent

    def log_prob(self, latents: Tensor) -> Tensor:
        """Return the natural log of the density, shape (N, S) -> (N,), float32; NaN where a latent is not finite."""
        finite = torch.isfinite(latents).all(dim=1)
        found = self.flow.log_prob(torch.where(finite[:, None], latents, 0.0))
        return torch.where(finite, found, torch.nan)

    def log_mean_prob(self, latents: Tensor, covariance: Tensor) -> Tensor:
        """Return the log of the mean density over the uncertainty of latents, shape (N,), float32.

        latents: shape (N, S). covariance: shape (N, S (S + 1) / 2), its lower triangle row by row. At the same NODES
        quasi-random points of every spectrum, so that none depends on others. NaN where a covariance is none.
        """
        n, s = latents.shape
        rows, columns = torch.tril_indices(s, s)
        full = torch.zeros(n, s, s, dtype=torch.float64, device=latents.device)
        full[:, rows, columns] = covariance.double()
        full[:, columns, rows] = covariance.double()
        known = torch.isfinite(full).all(dim=2).all(dim=1)
        full = torch.where(known[:, None, None], full, torch.eye(s, dtype=torch.float64, device=latents.device))
        lower, failed = torch.linalg.cholesky_ex(full)
        total = torch.full((n,), -math.inf, device=latents.device)
        for node in nodes(s).to(latents.device):
            moved = (latents.double() + lower @ node).float()
            total = torch.logaddexp(total, self.log_prob(moved))
        return torch.where(known & (failed == 0), total - math.log(NODES), torch.nan)

    def to(self, device: torch.device) -> Self:
        """Move the flow to a device."""
        self.flow.to(device)
        return self


@cache
def nodes(n_latent: int) -> Tensor:
    """Return points that stand for a normal distribution, shape (NODES, S), float64: always the same ones."""
    engine = torch.quasirandom.SobolEngine(n_latent, scramble=True, seed=_SEED)  # type: ignore[no-untyped-call]
    uniform = engine.draw(NODES, dtype=torch.float64)
    return math.sqrt(2) * torch.erfinv(2 * uniform.clamp(1e-6, 1 - 1e-6) - 1)


def load_density(file: str) -> Density:
    """Load a density: a path, a URL, or a name in `PUBLISHED_FLOWS`. Raises WeightsError; see `density_of`."""
    return density_of(read_flow(file), file)


def density_of(data: bytes, name: str) -> Density:
    """Return the density of a file's bytes: one that this package trained, or one of upstream's form.

    name: for messages. Upstream's files name no model: those that are published are known by their hash. Raises
    WeightsError for other files, and for one whose training has not ended.
    """
    entries = unpacked(data, name)
    try:
        if entries.get("format") != FORMAT:
            flow: Flow = AffineFlow.of_state(entries)
            return Density(flow.eval(), model=_model_of(data))
        if "held_out" not in entries:
            raise WeightsError(f"the training of {name!r} has not ended: start the same command again to go on")
        return _trained(entries)
    except WeightsError:
        raise
    except Exception as error:  # whatever breaks on a malformed state, it is the file that is wrong
        reason = " ".join(str(error).split())
        raise WeightsError(f"{name!r} is not a density of latents: {reason}") from error


def unpacked(data: bytes, name: str) -> dict[str, Any]:
    """Return the entries of a file that holds only tensors and plain values. Raises WeightsError."""
    try:
        entries = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything on bytes that are not its own
        raise WeightsError(
            f"{name!r} is not a density of latents ({type(error).__name__}, {len(data)} bytes): it is another kind of"
            " file, is damaged, or holds Python objects, which are never loaded"
        ) from error
    if not isinstance(entries, Mapping):
        raise WeightsError(f"{name!r} is not a density of latents: it holds no named entries")
    if entries.get("format") == FORMAT and entries.get("version") != VERSION:
        found = entries.get("version")
        raise WeightsError(f"{name!r} is a density of version {found}, expected {VERSION}: train it again")
    return dict(entries)


def spline_flow(entries: Mapping[str, Any]) -> SplineFlow:
    """Return the flow of the entries `mean`, `whitening` and `arguments`, with new members."""
    arguments = dict(entries["arguments"])
    return SplineFlow(entries["mean"], entries["whitening"], **{**arguments, "hidden": tuple(arguments["hidden"])})


@torch.no_grad()
def probe(flow: SplineFlow) -> Tensor:
    """Return log p at a few points of the sample's scatter: a file keeps it, so that another arithmetic is noticed."""
    return flow.log_prob(flow.mean + torch.linalg.solve(flow.whitening, nodes(flow.n_latent)[:8].T).T)


def _trained(entries: Mapping[str, Any]) -> Density:
    flow = spline_flow(entries)
    flow.load_state_dict(entries["state"])
    flow.eval()
    if not torch.allclose(probe(flow), entries["probe"], atol=0.01):
        made_by = ", ".join(f"{name} {version}" for name, version in entries["versions"].items())
        raise ValueError(f"it gives other numbers here than where it was trained, by {made_by}: install these versions")
    known = ("state", "mean", "whitening", "held_out", "training", "probe")
    return Density(
        flow,
        model_sha256=str(entries["model_sha256"]),
        held_out=Percentiles.from_entries(entries["held_out"]),
        training=Percentiles.from_entries(entries["training"]),
        facts={key: value for key, value in entries.items() if key not in known},
    )


def _model_of(data: bytes) -> str | None:
    found = hashlib.sha256(data).hexdigest()
    return next((each.model for each in PUBLISHED_FLOWS.values() if found.startswith(each.sha256)), None)


def belongs_to(density: Density, model_sha256: str) -> bool | None:
    """Tell whether a density is of a checkpoint's latents; None where its file does not say."""
    if density.model_sha256 is not None:
        return density.model_sha256 == model_sha256
    return None if density.model is None else model_sha256.startswith(PUBLISHED[density.model].sha256)
