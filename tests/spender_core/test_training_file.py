from __future__ import annotations

import pytest
import torch

from spender_core.training_file import LocalFile, Progress, pack, unpack


def test_a_checkpoint_and_its_progress_come_back():
    progress = Progress(
        {"lr": 0.1, "arguments": {"n_latent": 2}},
        epoch=3,
        step=7,
        optimizer={"state": {0: {"step": torch.tensor(5.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
        rng={"cpu": torch.get_rng_state()},
        totals={"sdss": {"count": 3, "terms": {"fidelity": 0.1 + 0.2}}},
        best={"loss": 1.5, "epoch": 2, "weights": [{"a": torch.ones(2)}]},
    )
    checkpoint, found = unpack(pack({"model": [{"a": torch.arange(3.0)}], "losses": {"train": []}}, progress), "m.pt")
    assert checkpoint.keys() == {"model", "losses"}
    assert torch.equal(checkpoint["model"][0]["a"], torch.arange(3.0))
    assert (found.identity, found.epoch, found.step) == (progress.identity, 3, 7)
    assert found.totals == progress.totals
    assert found.optimizer["param_groups"] == progress.optimizer["param_groups"]
    assert torch.equal(found.rng["cpu"], progress.rng["cpu"])
    assert torch.equal(found.best["weights"][0]["a"], torch.ones(2))
    assert found.weights is found.mean is None


def saved(folder, entries):
    torch.save(entries, folder / "m.pt")
    return (folder / "m.pt").read_bytes()


def test_what_is_no_training_checkpoint_is_refused(tmp_path):
    for data in (b"notes", b"", saved(tmp_path, {"model": {}}), saved(tmp_path, [1, 2])):
        with pytest.raises(ValueError, match=r"m\.pt is not a checkpoint of a training run: give another file"):
            unpack(data, "m.pt")


def test_a_run_of_an_earlier_release_is_refused_with_the_remedy(tmp_path):
    old = {"model": [], "losses": {}, "training": {"identity": {}, "optimizer": {}, "scheduler": {}, "rng": None}}
    with pytest.raises(
        ValueError, match=r"by another release \(format 1, expected 2\).* begin from the weights of this"
    ):
        unpack(saved(tmp_path, old), "m.pt")


def test_a_local_file_is_replaced_as_a_whole(tmp_path):
    file = LocalFile(tmp_path / "m.pt")
    assert not file.exists()
    file.write(b"first")
    assert file.exists()
    assert file.read() == b"first"
    assert str(file) == str(tmp_path / "m.pt")
    # what a kill in the middle of a write leaves behind
    (tmp_path / "m.pt.part").write_bytes(b"sec")
    assert file.read() == b"first"
    file.write(b"second")
    assert file.read() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]
