from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.compute.stages import process as worker
from pipeline.compute.stages.infer import Encoded, Fit, encode_spectra
from pipeline.planning.schema import OUTPUTS, REGIONS
from pipeline.spectra.quality import Quality
from spender_core.autoencoder import SpectrumAutoencoder
from spender_core.instrument import SDSS
from spender_core.latent_fit import Prior
from spender_core.residuals import Residuals

CPU = torch.device("cpu")
FIT = Fit(Prior(torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)))
L = 3921
Spectra = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.uint32]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with worker.deterministic():
        yield


def make_model(n_aux: int = 0, kind: type[SpectrumAutoencoder] = SpectrumAutoencoder) -> SpectrumAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return kind(SDSS(), torch.logspace(3.37, 3.97, 700), n_latent=4, n_aux=n_aux).eval()


def make_spectra(n: int) -> Spectra:
    rng = np.random.default_rng(5)
    flux = (1 + rng.normal(0, 0.2, (n, L))).astype(np.float32)
    ivar = rng.uniform(1, 30, (n, L)).astype(np.float32)
    ivar[rng.random((n, L)) < 0.2] = 0
    return flux, ivar, rng.uniform(0.02, 0.3, n).astype(np.float32), np.zeros(n, np.uint32)


def encode(model: SpectrumAutoencoder, spectra: Spectra, micro_batch: int = 4, precision: str = "float32") -> Encoded:
    return encode_spectra(
        model, *spectra, outputs=OUTPUTS, micro_batch=micro_batch, device=CPU, precision=precision, fit=FIT
    )


def test_a_negative_amplitude_leaves_the_latents_only() -> None:
    flux, ivar, z, quality = make_spectra(3)
    quality[:2] = np.uint32(Quality.NO_NORM)
    model = make_model()
    with torch.no_grad():  # a decoder that says the same of all spectra, near 1, makes the signs certain
        for layer in model.decoder.mlp:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.zero_()
    flux[0], flux[1] = -1.0, 1.0
    encoded = encode(model, (flux, ivar, z, quality))
    assert Quality(int(encoded.quality[0])) & Quality.NEGATIVE_AMPLITUDE
    assert not encoded.quality[1] & np.uint32(Quality.NEGATIVE_AMPLITUDE)
    assert np.isfinite(encoded.outputs["latents"]).all()
    assert np.isnan(encoded.outputs["restframe"][0]).all()
    assert np.isnan([encoded.outputs["chi2"][0], encoded.outputs["amplitude"][0]]).all()
    assert encoded.outputs["n_pixels"][0] == 0
    assert np.isfinite(encoded.outputs["restframe"][1:]).all()
    assert encoded.outputs["amplitude"][1] > 0


def test_reasons_are_those_of_flux_ivar_and_reconstruction() -> None:
    flux, ivar, z, quality = make_spectra(5)
    flux[2, 1500:1520] += 3
    encoded = encode(make_model(), (flux, ivar, z, quality), micro_batch=2)
    model = torch.from_numpy(encoded.outputs["reconstruction"])
    weight = torch.where(model.isfinite(), torch.from_numpy(ivar), 0)
    found = Residuals(torch.from_numpy(flux), weight, model, torch.from_numpy(z), SDSS().wave_obs, REGIONS)
    for name in ("region_chi2", "run_significance", "run_wavelength"):
        np.testing.assert_array_equal(encoded.outputs[name], getattr(found, name))
    n = encoded.outputs["n_pixels"]
    assert np.nanmin(encoded.outputs["region_chi2"], axis=1).max() <= (encoded.outputs["chi2"] / n).max()
    assert encoded.outputs["run_wavelength"][2] == pytest.approx(SDSS().wave_obs[1510].item(), rel=1e-3)


@pytest.mark.parametrize("n_aux", [0, 1])
def test_what_lands_is_what_the_model_says(n_aux: int) -> None:
    model, spectra = make_model(n_aux), make_spectra(4)
    encoded = encode(model, spectra)
    flux, z = torch.from_numpy(spectra[0]), torch.from_numpy(spectra[2])
    with torch.inference_mode():
        latents, restframe, reconstruction = model._forward(flux, z=z)
    np.testing.assert_array_equal(encoded.outputs["latents"], latents)
    np.testing.assert_array_equal(encoded.outputs["restframe"], restframe)
    inside = np.isfinite(encoded.outputs["reconstruction"])
    np.testing.assert_array_equal(encoded.outputs["reconstruction"][inside], reconstruction.numpy()[inside])
    np.testing.assert_array_equal(encoded.outputs["amplitude"], 1)
    assert encoded.quality.dtype == np.uint32
    assert not encoded.quality.any()


@pytest.mark.parametrize("n", [1, 3, 4, 5, 9])
def test_a_spectrum_gives_the_same_bits_whatever_comes_after_it(n: int) -> None:
    model, spectra = make_model(), make_spectra(9)
    whole = encode(model, spectra)
    part = encode(model, tuple(values[:n] for values in spectra))  # type: ignore[arg-type]
    for name in OUTPUTS:
        np.testing.assert_array_equal(part.outputs[name], whole.outputs[name][:n], err_msg=name)
    np.testing.assert_array_equal(part.quality, whole.quality[:n])


def test_no_spectra_give_no_rows() -> None:
    encoded = encode(make_model(), make_spectra(0))
    assert encoded.outputs["latents"].shape == (0, 4)
    assert encoded.outputs["restframe"].shape == (0, 700)


@pytest.mark.parametrize("bit", [Quality.NO_FILE, Quality.NO_PIXELS, Quality.NOT_PROCESSED, Quality.ZERO_FLUX])
def test_unusable_rows_are_nan_and_harm_no_neighbour(bit: Quality) -> None:
    model, (flux, ivar, z, quality) = make_model(), make_spectra(6)
    clean = encode(model, (flux, ivar, z, quality))
    flux, ivar, z, quality = flux.copy(), ivar.copy(), z.copy(), quality.copy()
    flux[2], ivar[2], z[2], quality[2] = np.inf, np.nan, np.nan, bit
    encoded = encode(model, (flux, ivar, z, quality))
    for name in ("latents", "restframe", "reconstruction", "chi2", "amplitude"):
        found, expected = encoded.outputs[name], clean.outputs[name]
        assert np.isnan(found[2]).all()
        np.testing.assert_array_equal(np.delete(found, 2, 0), np.delete(expected, 2, 0), err_msg=name)
    assert encoded.outputs["n_pixels"][2] == 0
    assert encoded.quality[2] & bit
    assert not np.delete(encoded.quality, 2).any()


NO_REDSHIFTS = [np.nan, np.inf, -1.0, -2.5]


@pytest.mark.parametrize("z_bad", NO_REDSHIFTS)
@pytest.mark.parametrize("bits", [Quality.GOOD, Quality.NO_REDSHIFT, Quality.NEGATIVE_NORM], ids=str)
def test_without_a_redshift_a_model_gives_latents_alone(z_bad: float, bits: Quality) -> None:
    model, (flux, ivar, z, quality) = make_model(), make_spectra(3)
    known = encode(model, (flux, ivar, z, quality))
    z[1], quality[1] = z_bad, bits
    encoded = encode(model, (flux, ivar, z, quality))
    assert encoded.quality.tolist() == [0, Quality.NO_REDSHIFT | bits, 0]
    np.testing.assert_array_equal(encoded.outputs["latents"], known.outputs["latents"])
    for name, values in encoded.outputs.items():
        np.testing.assert_array_equal(np.delete(values, 1, 0), np.delete(known.outputs[name], 1, 0), err_msg=name)
        if name != "latents":
            np.testing.assert_array_equal(values[1], OUTPUTS[name].fill, err_msg=name)
    assert quality[1] == bits, "the caller's array is left alone"


@pytest.mark.parametrize("z_bad", NO_REDSHIFTS)
def test_a_model_that_takes_the_redshift_gives_nothing_without(z_bad: float) -> None:
    flux, ivar, z, quality = make_spectra(2)
    z[1] = z_bad
    encoded = encode(make_model(n_aux=1), (flux, ivar, z, quality))
    assert encoded.quality.tolist() == [0, Quality.NO_REDSHIFT | Quality.NEEDS_REDSHIFT]
    for name, values in encoded.outputs.items():
        np.testing.assert_array_equal(values[1], OUTPUTS[name].fill, err_msg=name)
    assert np.isfinite(encoded.outputs["latents"][0]).all()
    assert quality.tolist() == [0, 0], "the caller's array is left alone"


def test_latents_that_are_not_finite_have_a_bit_without_a_redshift_too() -> None:
    model, (flux, ivar, z, quality) = make_model(), make_spectra(1)
    z[0] = np.nan
    with torch.no_grad():
        model.encoder.mlp[0].bias[0] = torch.nan
    assert encode(model, (flux, ivar, z, quality)).quality.tolist() == [Quality.NO_REDSHIFT | Quality.NOT_FINITE]


def test_spectra_out_of_the_domain_are_encoded_with_a_remark() -> None:
    model, (flux, ivar, z, quality) = make_model(), make_spectra(3)
    inside = encode(model, (flux, ivar, z, quality))
    quality[2] = Quality.NO_PIXELS
    outside = np.array([False, True, True])
    encoded = encode_spectra(
        model, flux, ivar, z, quality, outputs=OUTPUTS, micro_batch=4, device=CPU, outside=outside, fit=FIT
    )
    assert encoded.quality.tolist() == [0, Quality.OUT_OF_DOMAIN, Quality.NO_PIXELS]
    for name in OUTPUTS:
        np.testing.assert_array_equal(encoded.outputs[name][:2], inside.outputs[name][:2], err_msg=name)


def test_chi2_is_taken_over_weighted_pixels_inside_of_the_model() -> None:
    model, (flux, ivar, z, quality) = make_model(), make_spectra(3)
    z[1] = 0.8  # the model's blue end, 2344 A, is then at 4220 A
    encoded = encode(model, (flux, ivar, z, quality))
    used = (ivar > 0) & np.isfinite(encoded.outputs["reconstruction"])
    residual = np.where(used, flux - encoded.outputs["reconstruction"], 0).astype(np.float64)
    np.testing.assert_allclose(encoded.outputs["chi2"], (ivar * residual**2).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(encoded.outputs["n_pixels"], used.sum(1))
    assert encoded.outputs["n_pixels"][1] < (ivar[1] > 0).sum()
    assert encoded.quality.tolist() == [0, Quality.OUT_OF_RANGE, 0]


def test_a_spectrum_beyond_the_model_has_no_chi2_and_says_so() -> None:
    flux, ivar, z, quality = make_spectra(2)
    z[0] = 7.0
    encoded = encode(make_model(), (flux, ivar, z, quality))
    assert encoded.quality[0] == Quality.OUT_OF_RANGE | Quality.NO_OVERLAP
    assert encoded.outputs["n_pixels"][0] == 0
    assert np.isnan(encoded.outputs["chi2"][0])
    assert np.isnan(encoded.outputs["reconstruction"][0]).all()


@pytest.mark.parametrize("bit", [Quality.NO_NORM, Quality.NEGATIVE_NORM])
def test_without_a_norm_the_amplitude_is_fitted_by_weighted_least_squares(bit: Quality) -> None:
    model, (flux, ivar, z, quality) = make_model(), make_spectra(3)
    plain = encode(model, (flux, ivar, z, quality))
    quality[1] = bit
    encoded = encode(model, (flux, ivar, z, quality))
    used = (ivar[1] > 0) & np.isfinite(plain.outputs["reconstruction"][1])
    f, w, m = (values[1][used].astype(np.float64) for values in (flux, ivar, plain.outputs["reconstruction"]))
    amplitude = (w * f * m).sum() / (w * m * m).sum()
    np.testing.assert_allclose(encoded.outputs["amplitude"], [1, amplitude, 1], rtol=1e-5)
    np.testing.assert_allclose(
        encoded.outputs["restframe"][1], plain.outputs["restframe"][1] * amplitude, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(encoded.outputs["chi2"][1], (w * (f - amplitude * m) ** 2).sum(), rtol=1e-4)
    np.testing.assert_array_equal(encoded.outputs["latents"], plain.outputs["latents"])
    assert encoded.quality.tolist() == [0, bit | Quality.AMPLITUDE_FITTED, 0]


def test_an_amplitude_that_no_pixel_constrains_is_not_made_up() -> None:
    flux, ivar, z, quality = make_spectra(1)
    z[0], quality[0] = 7.0, Quality.NO_NORM
    encoded = encode(make_model(), (flux, ivar, z, quality))
    assert np.isnan(encoded.outputs["amplitude"][0])
    assert np.isnan(encoded.outputs["restframe"][0]).all()
    assert np.isfinite(encoded.outputs["latents"][0]).all()
    assert not encoded.quality[0] & Quality.AMPLITUDE_FITTED


def test_latents_that_are_not_finite_are_told_by_a_bit() -> None:
    model = make_model()
    with torch.no_grad():
        model.encoder.mlp[0].bias[0] = torch.nan
    encoded = encode(model, make_spectra(2))
    assert encoded.quality.tolist() == [Quality.NOT_FINITE] * 2
    assert np.isnan(encoded.outputs["latents"]).all()
    assert not encoded.outputs["n_pixels"].any()


class SmallDevice(SpectrumAutoencoder):
    """Runs out of memory above three spectra, as a small GPU does."""

    def reconstruct(self, spec: Tensor, *args: Tensor, **kwargs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if len(spec) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return super().reconstruct(spec, *args, **kwargs)  # type: ignore[arg-type]


def test_out_of_memory_halves_the_micro_batch_and_says_so() -> None:
    spectra = make_spectra(7)
    encoded = encode(make_model(kind=SmallDevice), spectra, micro_batch=8)
    assert encoded.micro_batch == 2
    np.testing.assert_allclose(
        encoded.outputs["latents"], encode(make_model(), spectra, 8).outputs["latents"], rtol=1e-4, atol=1e-6
    )
    assert encode(make_model(), spectra, 8).micro_batch == 8


class NoDevice(SpectrumAutoencoder):
    """Never has enough memory."""

    def reconstruct(self, spec: Tensor, *args: Tensor, **kwargs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        raise torch.OutOfMemoryError("out of memory")


def test_out_of_memory_for_a_single_spectrum_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        encode(make_model(kind=NoDevice), make_spectra(2))


@pytest.mark.slow
def test_lower_precision_is_close_and_leaves_the_settings_as_they_were() -> None:
    model, spectra = make_model(), make_spectra(2)
    exact = encode(model, spectra)
    for precision in ("bf16", "tf32"):
        encoded = encode(model, spectra, precision=precision)
        assert encoded.outputs["latents"].dtype == np.float32
        np.testing.assert_allclose(encoded.outputs["latents"], exact.outputs["latents"], atol=0.1)
    assert torch.get_float32_matmul_precision() == "highest"
    np.testing.assert_array_equal(encode(model, spectra).outputs["latents"], exact.outputs["latents"])


def test_an_unknown_precision_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="fp8"):
        encode(make_model(), make_spectra(1), precision="fp8")
