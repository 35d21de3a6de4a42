"""Blocks shared among threads: the numbers of one thread, whatever their number."""

from __future__ import annotations

import copy
import itertools
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from spender.data.sdss import SDSS as UpstreamSDSS
from spender.model import SpectrumAutoencoder as UpstreamAutoencoder
from torch import Tensor

from spender_core import SDSS, SpectrumAutoencoder, load_model, sharing
from spender_core.encoder import N_FEATURE
from spender_core.sharing import share, shared_function

pytestmark = pytest.mark.slow

BATCHES = range(1, 71)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models() -> tuple[SpectrumAutoencoder, UpstreamAutoencoder]:
    """Give the embedded weights, without the redshift's, to our model and to upstream's."""
    loaded, _ = load_model("sdss-demo", SDSS())
    state = loaded.state_dict()
    state["encoder.mlp.0.weight"] = state["encoder.mlp.0.weight"][:, :N_FEATURE]
    ours = SpectrumAutoencoder(SDSS(), loaded.wave_rest, loaded.n_latent)
    ours.load_state_dict(state)
    upstream = UpstreamAutoencoder(UpstreamSDSS(), loaded.wave_rest, n_latent=loaded.n_latent)
    upstream.load_state_dict(state, strict=False)
    return ours.eval(), upstream.eval()


@pytest.fixture(scope="module")
def model(models: tuple[SpectrumAutoencoder, UpstreamAutoencoder]) -> SpectrumAutoencoder:
    return models[0]


@pytest.fixture(scope="module")
def spectra(model: SpectrumAutoencoder) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 1 + torch.randn(BATCHES[-1], len(model.wave_obs), generator=generator)


def encoded(model: SpectrumAutoencoder, spectra: Tensor, threads: int) -> dict[int, Tensor]:
    """Encode every batch with so many threads, weights and all."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    unused = copy.deepcopy(model)  # whose weights no thread has transformed
    unused.load_state_dict(model.state_dict())
    try:
        with torch.inference_mode():
            return {size: unused.encode(spectra[:size]) for size in BATCHES}
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def by_one(model: SpectrumAutoencoder, spectra: Tensor) -> dict[int, Tensor]:
    return encoded(model, spectra, 1)


def test_latents_are_upstreams_for_every_batch(
    models: tuple[SpectrumAutoencoder, UpstreamAutoencoder], spectra: Tensor, by_one: dict[int, Tensor]
) -> None:
    with torch.inference_mode():
        expected = models[1].encode(spectra)
    for size, found in by_one.items():
        torch.testing.assert_close(found, expected[:size], rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("threads", [2, 3])
def test_latents_are_those_of_one_thread_for_every_batch(
    model: SpectrumAutoencoder, spectra: Tensor, by_one: dict[int, Tensor], threads: int
) -> None:
    for size, found in encoded(model, spectra, threads).items():
        assert torch.equal(found, by_one[size]), size


def gradients(model: SpectrumAutoencoder, spec: Tensor, threads: int) -> dict[str, Tensor]:
    """Give those of the encoder; what they come from, the decoder's, is shared within each operation."""
    torch.set_num_threads(threads)
    model.zero_grad()
    model.loss(spec, torch.ones_like(spec), z=torch.full((len(spec),), 0.1)).backward()
    return {name: each.grad.clone() for name, each in model.encoder.named_parameters() if each.grad is not None}


def test_gradients_are_those_of_one_thread_and_of_the_plain_layers(
    model: SpectrumAutoencoder, spectra: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {threads: gradients(model, spectra, threads) for threads in (1, 2, 3)}
    monkeypatch.setattr(type(model.encoder), "_is_tiled", lambda self, spec: False)
    plain = gradients(model, spectra, 1)
    assert len(found[1]) > 10
    for name in found[1]:  # all but the biases before the norms, which have no part in anything
        expected = plain[name]
        for threads, of in found.items():
            difference = (of[name] - expected).norm() / expected.norm()
            assert difference < 1e-3, (threads, name)  # of two like pixels of a pool, either may be the maximum
            shared = (of[name] - found[1][name]).norm() / expected.norm()
            assert shared < 1e-5, (threads, name)


@pytest.mark.parametrize("threads", [2, 3])
def test_gradients_are_the_same_every_time(model: SpectrumAutoencoder, spectra: Tensor, threads: int) -> None:
    first = gradients(model, spectra, threads)
    for _ in range(3):
        again = gradients(model, spectra, threads)
        assert all(torch.equal(again[name], first[name]) for name in first)


def test_a_graph_that_is_kept_can_be_gone_through_again(model: SpectrumAutoencoder, spectra: Tensor) -> None:
    torch.set_num_threads(2)
    weight = model.encoder.conv1.weight
    total = model.encoder.features(spectra[:40]).sum()
    (first,) = torch.autograd.grad(total, [weight], retain_graph=True)
    (second,) = torch.autograd.grad(total, [weight])
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(total, [weight])


class Squared(torch.autograd.Function):
    """A step of a block whose going can be seen."""

    kept: ClassVar[list[weakref.ref[object]]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Squared.kept.append(weakref.ref(ctx))
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad * ctx.saved_tensors[0]


def test_blocks_are_let_go_with_the_callers_graph() -> None:
    torch.set_num_threads(2)
    weight = torch.ones(3, requires_grad=True)
    blocks = [torch.ones(2, 3), torch.ones(1, 3)]
    total = shared_function(lambda block, weight: Squared.apply(block * weight), blocks, weight).sum()
    assert [each() is None for each in Squared.kept] == [False, False]
    total.backward()
    assert torch.equal(weight.grad, torch.full((3,), 6.0))
    assert [each() is None for each in Squared.kept] == [True, True]  # though the total is still there


def test_results_that_nobody_takes_leave_nothing_under_way() -> None:
    torch.set_num_threads(2)
    done: list[int] = []
    results = share(lambda block: done.append(block) or block, range(1000))
    assert next(results) == 0
    results.close()
    after = len(done)
    assert after < 10
    assert list(share(lambda block: block, range(3))) == [0, 1, 2]
    assert len(done) == after


def test_callers_of_several_threads_share_at_once() -> None:
    def calls(threads: int) -> list[int]:
        torch.set_num_threads(threads)
        return [sum(share(lambda block: block, range(50))) for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        assert set(itertools.chain(*pool.map(calls, [2, 3, 2, 3]))) == {sum(range(50))}


def test_a_pool_that_cannot_start_keeps_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_pools", {})

    class Interrupted(threading.Barrier):
        def wait(self, timeout: float | None = None) -> int:
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(threading, "Barrier", Interrupted)
    torch.set_num_threads(5)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        list(share(lambda block: block, range(3)))
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    assert sharing._pools == {}


def test_each_thread_computes_alone_with_the_callers_modes() -> None:
    torch.set_num_threads(2)

    def state(block: int) -> tuple[int, bool, bool, str]:
        name = threading.current_thread().name
        return torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(), name

    with torch.no_grad():
        found = list(share(state, range(8)))
    assert {each[:3] for each in found} == {(1, False, False)}
    assert all(each[3].startswith("spender-block") for each in found)
    with torch.inference_mode():
        assert {each[1:3] for each in share(state, range(3))} == {(False, True)}
    assert torch.get_num_threads() == 2
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [2]  # threads of others are as they were


def test_what_a_block_shares_it_does_itself() -> None:
    torch.set_num_threads(2)
    found = list(share(lambda block: list(share(lambda inner: threading.current_thread().name, range(3))), range(2)))
    assert all(len(set(names)) == 1 for names in found)


def test_an_error_of_a_block_is_the_callers() -> None:
    torch.set_num_threads(2)

    def work(block: int) -> int:
        if block == 5:
            raise ValueError("block 5")
        return block

    results = share(work, range(20))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="block 5"):
        next(results)
    assert list(share(work, range(3))) == [0, 1, 2]


def test_gradients_of_a_shared_function_are_right() -> None:
    torch.set_num_threads(3)
    generator = np.random.default_rng(1)
    blocks = [torch.from_numpy(generator.normal(size=(n, 4))) for n in (3, 1, 5)]
    weight = torch.from_numpy(generator.normal(size=(4, 2))).requires_grad_()
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def work(block: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return torch.tanh(block @ weight) * scale

    assert torch.autograd.gradcheck(lambda *parameters: shared_function(work, blocks, *parameters), (weight, scale))
