"""Pure: spectra on the grid and a model -> latents, restframe spectra, reconstructions and how well they fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.planning import schema
from pipeline.planning.schema import OUTPUTS, Decoded
from pipeline.spectra.quality import Quality
from spender_core.autoencoder import fit_amplitude
from spender_core.latent_fit import LatentFit, Prior, fit_latents
from spender_core.model import SpectrumModel
from spender_core.precision import arithmetic
from spender_core.residuals import Residuals

# Spectra whose `norm` is no measure of the model's scale: their amplitude is fitted.
_UNSCALED = Quality.NO_NORM | Quality.NEGATIVE_NORM


@dataclass(frozen=True)
class Encoded:
    """What a model says about N spectra.

    outputs: by name, each of shape (N, ...) as `planning.schema.OUTPUTS` describes it; its fill where the model says
    nothing: in rows without latents, and, but for the latents, without a redshift, where the amplitude fitted is not
    positive or no weighted pixel lies within the model. quality: shape (N,), uint32, the bits given and those added
    here. micro_batch: spectra computed at once, smaller than asked for if the device ran out of memory.
    """

    outputs: dict[str, NDArray[Any]]
    quality: NDArray[np.uint32]
    micro_batch: int


def encode_spectra(
    model: SpectrumModel,
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
    z: NDArray[np.floating],
    quality: NDArray[np.uint32],
    *,
    outputs: Iterable[str],
    micro_batch: int,
    device: torch.device,
    precision: str = "float32",
    outside: NDArray[np.bool_] | None = None,
    fit: Fit | None = None,
) -> Encoded:
    """Encode normalized spectra, decode them, and compare the reconstruction with the data.

    model: on `device`, in evaluation mode. flux, ivar: shape (N, L), normalized flux and its inverse variance, 0 where
    masked. z: shape (N,), redshifts. quality: shape (N,), bits of `Quality`. outputs: names of those wanted. precision:
    "float32", "tf32" or "bf16". outside: shape (N,), whether a target is out of the model's domain. fit: how latents
    are fitted, where an output asks for it.

    Every micro-batch is padded to the same size, so that a spectrum's numbers do not depend on how many others come
    with it. Rows with an UNUSABLE bit come out blank; each row without finite latents has at least one bit. Without a
    redshift there are latents alone, and only from a model that does not take it.
    """
    n = len(flux)
    quality = _without_redshift(quality, z, is_needed=model.encoder.n_aux > 0)
    z = np.where(_has(quality, Quality.NO_REDSHIFT), 0, z)  # any: nothing that depends on it is kept
    usable = ~_has(quality, Quality.UNUSABLE)
    if outside is not None:
        quality[usable & outside] |= np.uint32(Quality.OUT_OF_DOMAIN)
    result = _blank(n, model, outputs, micro_batch, quality)
    if not any(OUTPUTS[name].of_fit for name in result.outputs):
        fit = None
    start = 0
    size = micro_batch
    # One batch behind: a GPU computes this one while the last one's numbers are fetched and sorted into the result.
    last: _Computed | None = None
    with torch.inference_mode(), arithmetic(precision, device):
        while start < n:
            rows = slice(start, min(start + size, n))
            if usable[rows].any():
                try:
                    computed = _compute(model, _pad(flux, ivar, z, usable, rows, size, device), rows, result, fit)
                except torch.OutOfMemoryError:
                    if last is None and size == 1:
                        raise
                    if last is None:
                        size = -(-size // 2)
                    else:
                        _collect(last, usable, result)
                        last = None
                    torch.cuda.empty_cache()
                    continue
                if last is not None:
                    _collect(last, usable, result)
                last = computed
            start = rows.stop
        if last is not None:
            _collect(last, usable, result)
    return replace(result, micro_batch=size)


@dataclass(frozen=True)
class Fit:
    """How latents are fitted. prior: of the latents, on the device. free_z: whether the redshift is fitted, too."""

    prior: Prior
    free_z: bool = False


@dataclass(frozen=True)
class _Batch:
    """One padded micro-batch of M spectra on the device; rows that carry nothing are zero."""

    flux: Tensor  # (M, L)
    ivar: Tensor  # (M, L)
    z: Tensor  # (M,)


def _has(quality: NDArray[np.uint32], bits: Quality) -> NDArray[np.bool_]:
    """Tell which rows have any of some bits."""
    return np.asarray((quality & np.uint32(bits)) != 0)


def _without_redshift(quality: NDArray[np.uint32], z: NDArray[np.floating], *, is_needed: bool) -> NDArray[np.uint32]:
    """Add NO_REDSHIFT where z, in the model's float32, cannot move a spectrum to the restframe.

    is_needed: whether the model takes the redshift, so that it has no latents without.
    """
    as_model = z.astype(np.float32)
    bad = ~(np.isfinite(as_model) & (as_model > -1))
    quality = np.asarray(np.where(bad, quality | np.uint32(Quality.NO_REDSHIFT), quality), dtype=np.uint32)
    if is_needed:
        quality[_has(quality, Quality.NO_REDSHIFT)] |= np.uint32(Quality.NEEDS_REDSHIFT)
    return quality


def _blank(
    n: int, model: SpectrumModel, outputs: Iterable[str], micro_batch: int, quality: NDArray[np.uint32]
) -> Encoded:
    lengths = schema.lengths(n, len(model.wave_obs), model.n_latent, len(model.wave_rest))
    blank: dict[str, NDArray[Any]] = {}
    for name in outputs:
        output = OUTPUTS[name]
        shape = [{**lengths, **output.sizes}[dim] for dim in output.dims]
        blank[name] = np.full(shape, output.fill, output.dtype)
    return Encoded(blank, quality.copy(), micro_batch)


def _pad(
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
    z: NDArray[np.floating],
    usable: NDArray[np.bool_],
    rows: slice,
    size: int,
    device: torch.device,
) -> _Batch:
    n = rows.stop - rows.start
    keep = usable[rows]
    pinned = device.type == "cuda"
    shapes = (size, flux.shape[1]), (size, flux.shape[1]), (size,)
    batch = _Batch(*(torch.zeros(shape, pin_memory=pinned) for shape in shapes))
    # Unusable rows stay zero: their content can neither raise an error nor affect other rows.
    for padded, values in ((batch.flux, flux), (batch.ivar, ivar), (batch.z, z)):
        of_rows = padded[:n].numpy()
        if keep.all():  # nearly always, and without the copy that a selection makes
            of_rows[:] = values[rows]
        else:
            of_rows[keep] = values[rows][keep]
    return _Batch(*(values.to(device, non_blocking=pinned) for values in (batch.flux, batch.ivar, batch.z)))


@dataclass(frozen=True)
class _Computed:
    """What a micro-batch of M spectra gave, on the device: the first len(rows) of these belong to `rows`.

    outputs: by name, shape (M, ...). finite: shape (M,), bool, whether the latents are. The others: shape (M,).
    """

    rows: slice
    outputs: dict[str, Tensor]
    finite: Tensor
    amplitude: Tensor
    n_pixels: Tensor
    n_weighted: Tensor


def _compute(model: SpectrumModel, batch: _Batch, rows: slice, result: Encoded, fit: Fit | None) -> _Computed:
    """Start to compute one micro-batch; nothing here waits for a GPU."""
    latents, restframe, reconstruction, valid = model.reconstruct(batch.flux, z=batch.z)
    latents, restframe, reconstruction = latents.float(), restframe.float(), reconstruction.float()
    weight = batch.ivar * valid
    fitted = torch.zeros(len(batch.z), dtype=torch.bool)
    fitted[: rows.stop - rows.start] = torch.from_numpy(_has(result.quality[rows], _UNSCALED))
    scale = torch.where(
        fitted.to(batch.z.device, non_blocking=True), fit_amplitude(batch.flux, weight, reconstruction), 1.0
    )
    restframe, reconstruction = restframe * scale[:, None], reconstruction * scale[:, None]
    chi2 = torch.sum(weight * (batch.flux - reconstruction) ** 2, dim=1)
    n_pixels = torch.count_nonzero(weight, dim=1)
    rest_first, rest_last = _covered_bins(model, weight, batch.z)
    decoded = Decoded(
        flux=batch.flux,
        ivar=batch.ivar,
        z=batch.z,
        latents=latents,
        restframe=restframe,
        reconstruction=torch.where(valid, reconstruction, torch.nan),
        valid=valid,
        chi2=torch.where(n_pixels > 0, chi2, torch.nan),
        n_pixels=n_pixels,
        amplitude=scale,
        rest_first=rest_first,
        rest_last=rest_last,
        residuals=Residuals(
            batch.flux, weight, reconstruction, batch.z, model.wave_obs.to(batch.z.device), schema.REGIONS
        ),
        fit=None if fit is None else _fitted(model, batch, latents, fit),
    )
    outputs = {name: OUTPUTS[name].compute(decoded) for name in result.outputs}
    finite = torch.isfinite(latents).all(dim=1)
    return _Computed(rows, outputs, finite, scale, n_pixels, torch.count_nonzero(batch.ivar, dim=1))


def _fitted(model: SpectrumModel, batch: _Batch, latents: Tensor, fit: Fit) -> LatentFit:
    """Fit the latents of a micro-batch, in full precision."""
    with arithmetic("float32", batch.z.device):
        return fit_latents(model, batch.flux, batch.ivar, latents, batch.z, fit.prior, free_z=fit.free_z)


def _covered_bins(model: SpectrumModel, weight: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the last restframe bin between the outermost weighted pixels; -1 twice where there is none.

    weight: shape (M, L). z: shape (M,).
    """
    used = weight > 0
    first = used.byte().argmax(dim=1)
    last = used.shape[1] - 1 - used.flip(1).byte().argmax(dim=1)
    observed = model.wave_obs.to(z.device, torch.float64)
    rest = model.wave_rest.to(z.device, torch.float64)
    scale = 1 + z.double()
    begin = torch.searchsorted(rest, observed[first] / scale)
    end = torch.searchsorted(rest, observed[last] / scale, right=True) - 1
    some = used.any(dim=1) & (begin <= end)
    return torch.where(some, begin, -1), torch.where(some, end, -1)


def _collect(computed: _Computed, all_usable: NDArray[np.bool_], result: Encoded) -> None:
    """Put a micro-batch's usable rows into `result`, with the bits that the model's answer adds."""
    rows = computed.rows
    n, usable = rows.stop - rows.start, all_usable[rows]

    def fetched(values: Tensor) -> NDArray[Any]:
        return np.asarray(values[:n].cpu().numpy())

    for name, values in computed.outputs.items():
        if usable.all():  # nearly always, and without the copy that a selection makes
            result.outputs[name][rows] = fetched(values)
        else:
            result.outputs[name][rows][usable] = fetched(values)[usable]
    compared = usable & ~_has(result.quality[rows], Quality.NO_REDSHIFT)
    result.quality[rows] |= _quality_bits(
        usable,
        compared,
        compared & _has(result.quality[rows], _UNSCALED),
        finite=fetched(computed.finite),
        positive=fetched(computed.amplitude) > 0,
        n_pixels=fetched(computed.n_pixels),
        n_weighted=fetched(computed.n_weighted),
    )
    _blank_invalid(result, rows)


def _quality_bits(
    usable: NDArray[np.bool_],
    compared: NDArray[np.bool_],
    fitted: NDArray[np.bool_],
    *,
    finite: NDArray[np.bool_],
    positive: NDArray[np.bool_],
    n_pixels: NDArray[np.int64],
    n_weighted: NDArray[np.int64],
) -> NDArray[np.uint32]:
    """Bits that the model's answer adds, all shape (N,).

    compared: usable, and with a redshift to compare it with the model at. fitted: with an amplitude of its own.
    n_pixels of the n_weighted pixels lie within the model.
    """
    added = np.zeros(len(usable), np.uint32)
    added[compared & (n_pixels < n_weighted)] |= np.uint32(Quality.OUT_OF_RANGE)
    added[compared & (n_pixels == 0)] |= np.uint32(Quality.NO_OVERLAP)
    added[fitted & (n_pixels > 0)] |= np.uint32(Quality.AMPLITUDE_FITTED)
    added[fitted & (n_pixels > 0) & ~positive] |= np.uint32(Quality.NEGATIVE_AMPLITUDE)
    added[usable & ~finite] |= np.uint32(Quality.NOT_FINITE)
    return added


def _blank_invalid(result: Encoded, rows: slice) -> None:
    """Blank values that are not results, so that no partial spectrum looks complete.

    Without finite latents, blank all; where the model does not describe the spectrum, all but the latents: a
    negative amplitude would turn its restframe upside down, without overlap or redshift nothing compares the two.
    """
    quality = result.quality[rows]
    not_finite = _has(quality, Quality.NOT_FINITE)
    bad = not_finite | _has(quality, Quality.NEGATIVE_AMPLITUDE | Quality.NO_OVERLAP | Quality.NO_REDSHIFT)
    for name, values in result.outputs.items():
        values[rows][not_finite if OUTPUTS[name].of_latents else bad] = OUTPUTS[name].fill
