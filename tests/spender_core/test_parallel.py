from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from spender_core import LSF, Augmentation, Losses, Settings, Slope, Stopped, fit
from spender_core.parallel import World

from .training_samples import coarse, make_models, survey

pytestmark = pytest.mark.slow

SETTINGS = Settings(2, 8, 1e-3, clip=5.0, average=0.9, patience=9, lsf_lr=1e-4)
LOSSES = {
    form: Losses(3.0, 1.0, form=form, scale2=scale2, augmentation=Augmentation.SDSS, slope=Slope(value=2.0))
    for form, scale2 in (("scale_free", None), ("paper2", 0.01))
}


def _begin(rank: int, size: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)


def in_processes(function, size: int, folder: Path, *arguments) -> list:
    """Run function(folder, *arguments) in so many processes that know each other; what each returns."""
    folder.mkdir(exist_ok=True)
    multiprocessing.spawn(_run, (size, folder, function, arguments), nprocs=size)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _run(rank: int, size: int, folder: Path, function, arguments) -> None:
    _begin(rank, size, folder)
    result = function(folder, *arguments)
    torch.save(result, folder / f"{rank}.pt")
    distributed.destroy_process_group()


class InDouble:
    """The same spectra in float64."""

    def __init__(self, data):
        self._data = data
        self.identity = data.identity
        self.steps = data.steps

    def batches(self, *arguments):
        for batch in self._data.batches(*arguments):
            yield replace(batch, spec=batch.spec.double(), w=batch.w.double(), z=batch.z.double())


def pairs(dtype=torch.float32):
    """Batches of 8, but the last: 5 spectra of one instrument, which two processes share unevenly, 1 of the other."""
    instruments = coarse(lsf=LSF.delta(3)), coarse("boss", 30)
    models = [model.to(dtype) for model in make_models(*instruments)]
    samples = [survey(instrument, n) for instrument, n in zip(instruments, (23, 20), strict=True)]
    return list(zip(models, samples if dtype == torch.float32 else map(InDouble, samples), strict=True))


def trained(folder: Path, form: str, dtype=torch.float32, settings=SETTINGS):
    """Train as one of the processes there are; the history and the weights."""
    models_and_data = pairs(dtype)
    history = fit(models_and_data, settings, folder / "model.pt", LOSSES[form])
    return history, [model.state_dict() for model, _ in models_and_data]


def assert_same(found, expected, tolerance, keys=("train", "valid")):
    for key in keys:
        for epoch, values in enumerate(expected[0][key]):
            assert found[0][key][epoch] == pytest.approx(values, rel=tolerance), (key, epoch)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=tolerance, atol=tolerance, msg=name)


def test_the_samples_have_the_short_batches_that_are_meant():
    last = [[len(batch) for batch in data.batches("train", 0, 8)][-1] for _, data in pairs()]
    assert last == [5, 1]


@pytest.mark.parametrize("form", LOSSES)
def test_two_processes_train_as_one(form, tmp_path):
    """In float64, where rounding does not hide what is wrong."""
    (tmp_path / "one").mkdir()
    one = trained(tmp_path / "one", form, torch.float64)
    found = in_processes(trained, 2, tmp_path / "two", form, torch.float64)
    for result in found:
        assert_same(result, one, 1e-6, one[0].keys())
    # to the last bit: processes that drift apart would not stay equal for long
    first, second = (weights for _, weights in found)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in a)


def test_two_processes_train_as_one_in_float32(tmp_path):
    # Adam's first steps have the sign of the gradient, which rounding decides where there is none but for eps: paper
    # II's here. What is left grows with the steps.
    settings = replace(SETTINGS, epochs=1, eps=1e-4)
    (tmp_path / "one").mkdir()
    one = trained(tmp_path / "one", "scale_free", torch.float32, settings)
    for result in in_processes(trained, 2, tmp_path / "two", "scale_free", torch.float32, settings):
        assert_same(result, one, 1e-5)


def interrupted(folder: Path):
    """Stop where the second process is asked to, after three steps, then go on."""
    left = [3 if World.current().rank == 1 else 10**9]

    def stop() -> bool:
        left[0] -= 1
        return left[0] == 0

    try:
        fit(pairs(torch.float64), SETTINGS, folder / "model.pt", LOSSES["scale_free"], stop=stop)
    except Stopped as stopped:
        return [stopped.epoch, stopped.step], trained(folder, "scale_free", torch.float64)
    raise AssertionError("not stopped")


def test_processes_stop_together_and_go_on_together(tmp_path):
    (tmp_path / "one").mkdir()
    one = trained(tmp_path / "one", "scale_free", torch.float64)
    for place, result in in_processes(interrupted, 2, tmp_path / "two"):
        assert place == [0, 3]
        assert_same(result, one, 1e-6)


def gathered(folder: Path):
    """Gradients of a sum over processes in which each row's cost depends on all rows."""
    world = World.current()
    whole = torch.arange(10.0, dtype=torch.float64).reshape(5, 2).sin()
    mine = whole[world.share(5)].clone().requires_grad_()
    all_rows, doubled = world.gather(mine, 2 * mine[:, :1])
    weight = torch.arange(1.0, 6, dtype=torch.float64)[world.share(5)]
    loss = (weight[:, None] * (all_rows[world.share(5)] @ all_rows.T).square()).sum() + doubled.prod()
    loss.backward()
    return all_rows.detach(), doubled.detach(), mine.grad, world.sum_(loss.detach().clone())


def test_gathered_rows_have_the_gradients_of_one_process(tmp_path):
    found = in_processes(gathered, 3, tmp_path / "three")
    whole = torch.arange(10.0, dtype=torch.float64).reshape(5, 2).sin().requires_grad_()
    weight = torch.arange(1.0, 6, dtype=torch.float64)
    # every process adds the product
    loss = (weight[:, None] * (whole @ whole.T).square()).sum() + 3 * (2 * whole[:, :1]).prod()
    loss.backward()
    for all_rows, doubled, _, total in found:
        assert torch.equal(all_rows, whole.detach())
        assert torch.equal(doubled, 2 * whole.detach()[:, :1])
        torch.testing.assert_close(total, loss.detach())
    torch.testing.assert_close(torch.cat([grad for _, _, grad, _ in found]), whole.grad)


def test_shares_of_a_batch_are_all_of_it_in_order():
    for size in (1, 2, 3, 7):
        for count in range(size, 20):
            shares = [World(rank, size).share(count) for rank in range(size)]
            assert [row for share in shares for row in range(share.start, share.stop)] == list(range(count))
            lengths = [share.stop - share.start for share in shares]
            assert max(lengths) - min(lengths) <= 1
    with pytest.raises(ValueError, match="count is 2, expected at least one row for each of 3 processes"):
        World(0, 3).share(2)


def test_a_process_alone_exchanges_nothing():
    world = World.current()
    rows = torch.ones(3, 2, requires_grad=True)
    assert world == World(0, 1)
    assert world.is_first
    assert world.gather(rows)[0] is rows
    assert world.from_first("value") == "value"
