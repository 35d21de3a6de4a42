from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from spender import SpectrumDecoder as UpstreamDecoder
from spender import loss as upstream

from spender_core.losses import annealed, consistency, fidelity, similarity

WAVE = torch.linspace(2359.0, 9332.0, 350, dtype=torch.float64)
FORMS = ("paper2", "scale_free")


@pytest.fixture
def decoder():
    torch.manual_seed(3)
    return UpstreamDecoder(WAVE, n_latent=6, n_hidden=(16, 32), act=None).double()


def latents(n=24, size=6, seed=0):
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spectra(n, size=60, seed=1):
    """Give restframes as galaxies have them, all of about the same flux, and their grid."""
    wave = torch.linspace(3500.0, 7500.0, size, dtype=torch.float64)
    return 1 + 0.2 * latents(n, size, seed), wave


def test_fidelity_equals_its_definition():
    rng = np.random.default_rng(0)
    spec, model = rng.normal(size=(2, 3, 20))
    w = rng.uniform(size=(3, 20))
    expected = np.sum(0.5 * w * (spec - model) ** 2, axis=1) / 20
    found = fidelity(*(torch.from_numpy(x) for x in (spec, w, model)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_perfect_fit_has_half_the_valid_fraction():
    torch.manual_seed(0)
    w = torch.ones(400, 3921)
    w[:, :660] = 0
    noise = torch.randn(400, 3921)
    assert abs(fidelity(noise, w, torch.zeros_like(noise)).mean().item() - 0.416) < 0.005


def upstreams(decoder, s, slope):
    model = SimpleNamespace(decode=decoder, decoder=decoder)  # all that the function looks at
    return upstream.similarity_restframe_loss(model, s, config=upstream.LossConfig(similarity_slope=slope))


@pytest.mark.parametrize("slope", [0.0, 1.3, 5.0, 9.9])
def test_scale_free_similarity_and_its_gradient_equal_upstream(decoder, slope):
    s = latents().requires_grad_()
    ours = similarity(s, decoder(s), WAVE, slope)
    theirs = upstreams(decoder, s, slope)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    for mine, other in zip(torch.autograd.grad(ours, s), torch.autograd.grad(theirs, s), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-8)


def test_scale_free_similarity_in_float32_equals_upstream_in_float64(decoder):
    s = latents()
    restframe = decoder(s)
    ours = similarity(s.float(), restframe.float(), WAVE.float(), 5.0)
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(upstreams(decoder, s, 5.0).item(), rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_what_all_rows_have_in_common_costs_no_digits(form):
    s, (restframe, wave) = (latents() + 30).float(), spectra(24)
    restframe, wave = (1 + 0.05 * (restframe - 1)).float(), wave.float()
    expected = similarity(s.double(), restframe.double(), wave.double(), 5.0, form=form)
    assert similarity(s, restframe, wave, 5.0, form=form).item() == pytest.approx(expected.item(), rel=1e-5)


def directly(s, restframe, wave, slope, amplitude, width):
    """Evaluate the form of 2023 pair by pair."""
    n = len(s)
    window = (wave > 4000) & (wave < 7000)
    median = [np.sort(r[window])[(window.sum() - 1) // 2] for r in restframe]
    r = restframe / np.array(median)[:, None]
    weight = np.exp(-((0.5 * (wave - 5000) / width) ** 2))
    total = 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                x = np.mean((s[i] - s[j]) ** 2) - amplitude * np.mean(weight * (r[i] - r[j]) ** 2)
                total += 1 / (1 + np.exp(2.5 - slope * x)) + 1 / (1 + np.exp(2.5 + slope * x))
    return total / n


@pytest.mark.parametrize(("amplitude", "width", "slope"), [(20.0, 1000.0, 9.9), (30.0, 2000.0, 1.9)])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
def test_similarity_of_2023_equals_its_formula(amplitude, width, slope, dtype, rtol):
    s, (restframe, wave) = latents(12), spectra(12)
    found = similarity(
        s.to(dtype), restframe.to(dtype), wave.to(dtype), slope, form="paper2", amplitude=amplitude, width=width
    )
    expected = directly(s.numpy(), restframe.numpy(), wave.numpy(), slope, amplitude, width)
    assert found.item() == pytest.approx(expected, rel=rtol)


def test_similarity_of_2023_has_the_constants_of_sdss_by_default():
    s, (restframe, wave) = latents(12), spectra(12)
    expected = directly(s.numpy(), restframe.numpy(), wave.numpy(), 9.9, 20.0, 1000.0)
    assert similarity(s, restframe, wave, 9.9, form="paper2").item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_similarity_has_the_gradients_of_finite_differences(form):
    s, (restframe, wave) = latents(5, 3).requires_grad_(), spectra(5, 40)
    assert torch.autograd.gradcheck(
        lambda a, b: similarity(a, b, wave, 2.0, form=form), (s, restframe.requires_grad_())
    )


@pytest.mark.parametrize("form", FORMS)
def test_similarities_of_the_rows_add_up_to_that_of_the_batch(form):
    s, (restframe, wave) = latents(11).requires_grad_(), spectra(11)
    whole = similarity(s, restframe, wave, 3.0, form=form)
    parts = [similarity(s, restframe, wave, 3.0, form=form, rows=slice(i, i + 4)) for i in (0, 4, 8)]
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(torch.autograd.grad(sum(parts), s), torch.autograd.grad(whole, s))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 7, 300])
def test_equal_latents_have_a_finite_similarity_and_gradient(decoder, form, n, dtype):
    s = torch.full((n, 6), 0.37, dtype=dtype, requires_grad=True)
    loss = similarity(s, decoder.to(dtype)(s), WAVE.to(dtype), 9.9, form=form)
    loss.backward()
    at_zero = 2 / (1 + np.exp(2.5))  # a pair with X = 0
    assert loss.item() == pytest.approx((n - 1) * at_zero, rel=1e-5)
    assert s.grad.abs().max() < 1e-6


def test_restframes_that_differ_by_rounding_count_as_equal():
    # the gradient of their scaled distances would be the inverse of a rounding error
    s, (restframe, wave) = latents(7).float(), spectra(1)
    rounding = 1 + 6e-8 * torch.randint(-1, 2, (7, 60), generator=torch.Generator().manual_seed(2))
    nearly = (restframe.float() * rounding).requires_grad_()
    similarity(s, nearly, wave.float(), 5.0).backward()
    assert nearly.grad.abs().max() < 1


def test_autocast_does_not_change_the_losses():
    s, (restframe, wave) = latents(12).float(), spectra(12)
    restframe, wave = restframe.float(), wave.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = similarity(s, restframe, wave, 5.0), consistency(s, s + 0.1)
    assert inside == (similarity(s, restframe, wave, 5.0), consistency(s, s + 0.1))


def test_latents_in_half_precision_are_compared_in_float32():
    s, (restframe, wave) = latents(12).bfloat16(), spectra(12)
    loss = similarity(s, restframe.bfloat16(), wave.float(), 5.0)
    assert loss.dtype == consistency(s, s).dtype == torch.float32


def test_unknown_form_is_refused_by_naming_the_known():
    s, (restframe, wave) = latents(3), spectra(3)
    with pytest.raises(ValueError, match="form is 'paper3', expected paper2 or scale_free"):
        similarity(s, restframe, wave, 1.0, form="paper3")


def test_restframe_without_the_norm_window_is_refused():
    s, (restframe, wave) = latents(3), spectra(3)
    with pytest.raises(ValueError, match=r"covers 10500-14500 Angstrom, expected bins in 4000-7000"):
        similarity(s, restframe, wave + 7000, 1.0)


MEASURE_MEMORY = """
import re, torch
from pathlib import Path
from spender_core.losses import similarity
def peak():  # not ru_maxrss, which begins with the size of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
def backward(n, r):
    s, wave = torch.randn(n, 6, requires_grad=True), torch.linspace(2359.0, 9332.0, r)
    restframe = (1 + 0.1 * torch.randn(n, r)).requires_grad_()
    for form in ("paper2", "scale_free"):
        similarity(s, restframe, wave, 5.0, form=form).backward()
backward(8, 70)  # what torch itself takes at first use
before = peak()
backward(512, 7000)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_similarity_of_512_restframes_of_7000_bins_fits_into_400_mb():
    done = subprocess.run([sys.executable, "-c", MEASURE_MEMORY], capture_output=True, text=True, check=True)
    assert 512 * 7000 * 4 < int(done.stdout) < 400e6


def test_consistency_and_its_gradient_equal_upstream():
    s, moved = latents().requires_grad_(), (latents() + 0.3 * latents(seed=1)).requires_grad_()
    ours, theirs = consistency(s, moved), upstream.consistency_loss(s, moved)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    for mine, other in zip(torch.autograd.grad(ours, (s, moved)), torch.autograd.grad(theirs, (s, moved)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-9)
    in_float32 = consistency(s.detach().float(), moved.detach().float())
    assert in_float32.item() == pytest.approx(theirs.item(), rel=1e-4)


@pytest.mark.parametrize("scale2", [0.01, 0.25])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
def test_consistency_of_2023_equals_its_formula(scale2, dtype, rtol):
    s, moved = latents(), latents() + 0.1 * latents(seed=1)
    x = ((s - moved).numpy() ** 2).sum(axis=1) / (6 * scale2)
    expected = np.sum(1 / (1 + np.exp(-x)) - 0.5)
    assert consistency(s.to(dtype), moved.to(dtype), scale2=scale2).item() == pytest.approx(expected, rel=rtol)


def test_consistency_has_the_gradients_of_finite_differences():
    inputs = latents(4, 3).requires_grad_(), latents(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(consistency, inputs)


def test_unrelated_latents_cost_about_a_third_each():
    s, other = latents(2000), latents(2000, seed=1)
    assert consistency(s, other).item() / 2000 == pytest.approx(0.35, abs=0.02)


@pytest.mark.parametrize("scale2", [None, 0.01])
def test_consistencies_of_the_rows_add_up_to_that_of_the_batch(scale2):
    s, moved = latents(11), latents(11) + 0.1
    parts = [consistency(s, moved[rows], scale2=scale2, rows=rows) for rows in (slice(0, 4), slice(4, 8), slice(8, 12))]
    torch.testing.assert_close(sum(parts), consistency(s, moved, scale2=scale2))


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("change", [0.0, 0.5])
def test_equal_latents_have_a_finite_consistency_and_gradient(n, change):
    s = torch.full((n, 6), 0.37, requires_grad=True)
    loss = consistency(s, torch.full((n, 6), 0.37 + change))
    loss.backward()
    assert loss.item() == pytest.approx(n * (1 / (1 + np.exp(-(change**2))) - 0.5), rel=1e-5)
    assert s.grad.abs().max() < 1


def test_slope_of_sdss_rises_by_a_tenth_in_cycles_of_100_and_ends_at_zero():
    slopes = [annealed(epoch, 250) for epoch in range(250)]
    cycle = np.arange(100) / 10
    expected = np.concatenate([cycle, cycle, cycle[:40], np.zeros(10)])
    np.testing.assert_allclose(slopes, expected, atol=1e-12)


def test_slope_of_desi_rises_to_1_9_in_cycles_of_20():
    slopes = [annealed(epoch, 45, top=1.9, cycle=20, last=0) for epoch in range(45)]
    np.testing.assert_allclose(slopes, np.tile(np.arange(20) / 10, 3)[:45], atol=1e-12)


def test_slope_stays_at_its_top_for_the_rest_of_a_cycle():
    assert [annealed(epoch, 100, top=0.5, step=0.25, cycle=4, last=0) for epoch in range(5)] == [0, 0.25, 0.5, 0.5, 0]
