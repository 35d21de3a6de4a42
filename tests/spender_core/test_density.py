"""Densities: their files, percentiles, what noise makes of a score, and the flows that upstream publishes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections import OrderedDict

import numpy as np
import pytest
import torch

from spender_core.density import NODES, Density, Percentiles, belongs_to, density_of, load_density, nodes, unpacked
from spender_core.flow import AffineFlow, Flow
from spender_core.weights import PUBLISHED, PUBLISHED_FLOWS, WeightsError
from tests.spender_core.density_samples import SHA256, density, modes, sample, trained
from tests.spender_core.test_flow import upstream


def saved(entries: object) -> bytes:
    stream = io.BytesIO()
    torch.save(entries, stream)
    return stream.getvalue()


class Normal(Flow):
    """A density that is known."""

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.n_latent = n_latent

    def log_prob(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Normal(0, 1).log_prob(latents).sum(dim=1)


def test_a_percentile_says_how_much_of_the_sample_is_rarer() -> None:
    log_prob = np.random.default_rng(0).normal(size=20_000)
    table = Percentiles.of(log_prob)
    found = table.percentile(np.array([-9.0, np.quantile(log_prob, 0.001), np.median(log_prob), 9.0, np.nan]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:4], [0, 0.1, 50, 100], atol=0.01)
    assert np.isnan(found[4])
    assert np.isnan(table.percentile_at(log_prob[:3], np.ones(3))).all()


def test_percentiles_by_sn_compare_like_with_like() -> None:
    random = np.random.default_rng(0)
    sn = random.uniform(1, 20, 8000)
    log_prob = random.normal(size=8000) - 20 / sn  # faint spectra scatter to rare latents
    table = Percentiles.of(log_prob, sn)
    assert len(table.by_bin) == 8
    faint = sn < 3
    assert np.median(table.percentile(log_prob[faint])) < 15
    assert np.median(table.percentile_at(log_prob, sn)[faint]) == pytest.approx(50, abs=10)
    few = Percentiles.of(log_prob[:300], sn[:300])
    assert len(few.by_bin) == 1
    unknown = np.where(faint, np.nan, sn)
    assert np.isnan(table.percentile_at(log_prob, unknown)[faint]).all()
    one = Percentiles.of(log_prob, np.ones(8000))  # a sample of one S/N has one bin
    np.testing.assert_array_equal(one.percentile_at(log_prob[:9], np.ones(9)), one.percentile(log_prob[:9]))


@pytest.mark.slow
def test_a_file_is_read_as_it_was_written() -> None:
    made = density()
    again = density_of(trained(), "flow.pt")
    assert (made.model_sha256, made.n_latent, made.model) == (SHA256, 3, None)
    latents = torch.from_numpy(modes(50))
    with torch.no_grad():
        assert torch.equal(made.log_prob(latents), again.log_prob(latents))
    assert made.held_out is not None
    assert made.training is not None
    assert made.facts["sample"]["survey"] == "toy"
    assert made.facts["sample"]["training"] + made.facts["sample"]["held_out"] == 3000
    assert set(made.facts["versions"]) == {"torch", "zuko"}
    assert made.facts["settings"]["hidden"] == [16, 16]


def test_the_percentiles_of_a_sample_are_even_in_what_is_held_out() -> None:
    made, own = density(), sample()
    assert made.held_out is not None
    with torch.no_grad():
        log_prob = made.log_prob(torch.from_numpy(own.latents[own.held_out])).numpy()
    found = np.sort(made.held_out.percentile(log_prob))
    np.testing.assert_allclose(found, np.linspace(0, 100, len(found)), atol=0.6)


def test_latents_that_are_not_finite_have_no_density() -> None:
    latents = torch.from_numpy(modes(5))
    with torch.no_grad():
        expected = density().log_prob(latents)
        latents[1, 2], latents[3, 0] = torch.nan, torch.inf
        found = density().log_prob(latents)
    assert torch.isnan(found).tolist() == [False, True, False, True, False]
    assert torch.equal(found[[0, 2, 4]], expected[[0, 2, 4]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a density of latents"),
        (b"PK\x03\x04nonsense", "not a density of latents"),
        (saved([1, 2]), "no named entries"),
        (saved({"model": {}}), "not a density of latents: not a flow of upstream's form"),
        (saved({"format": "spender-density", "version": 99}), "version 99, expected 1: train it again"),
        (saved({"format": "spender-density", "version": 1}), "has not ended: start the same command again"),
        (saved({"format": "spender-density", "version": 1, "held_out": {}}), "not a density of latents"),
    ],
)
def test_other_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        density_of(data, "flow.pt")


def test_another_arithmetic_is_noticed() -> None:
    entries = unpacked(trained(), "flow.pt")
    entries["probe"] = entries["probe"] + 0.1
    with pytest.raises(WeightsError, match="other numbers here than where it was trained, by torch"):
        density_of(saved(entries), "flow.pt")


def test_nodes_stand_for_a_normal_distribution() -> None:
    points = nodes(4)
    assert points.shape == (NODES, 4)
    assert torch.equal(points, nodes(4))
    assert points.mean(dim=0).abs().max() < 0.1
    assert (torch.cov(points.T) - torch.eye(4)).abs().max() < 0.3


def packed(covariance: torch.Tensor, n: int) -> torch.Tensor:
    s = len(covariance)
    return covariance[torch.tril_indices(s, s).unbind()].expand(n, -1)


def test_noise_widens_a_density_as_it_should() -> None:
    """Of a normal density and normal noise the mean density is known: the two variances add."""
    covariance = torch.tensor([[0.09, 0.03], [0.03, 0.04]])
    latents = torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.0, 0.5]])
    found = Density(Normal(2)).log_mean_prob(latents, packed(covariance, 3))
    wide = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2) + covariance)
    assert torch.allclose(found, wide.log_prob(latents), atol=0.02)


def test_a_spectrum_that_is_rare_by_noise_alone_gets_a_better_score_with_it() -> None:
    made = Density(Normal(3))
    rare = torch.full((1, 3), 2.5)
    sure, vague = packed(1e-6 * torch.eye(3), 1), packed(torch.eye(3), 1)
    alone = made.log_prob(rare)
    assert torch.allclose(made.log_mean_prob(rare, sure), alone, atol=0.01)
    assert (made.log_mean_prob(rare, vague) - alone) > 2


def test_what_is_no_covariance_gives_no_score() -> None:
    covariance = packed(torch.eye(3), 4).clone()
    covariance[1, 0], covariance[2, 0], covariance[3] = torch.nan, -1.0, 0.0
    found = Density(Normal(3)).log_mean_prob(torch.zeros(4, 3), covariance)
    assert torch.isnan(found).tolist() == [False, True, True, True]


def test_a_score_does_not_depend_on_neighbors() -> None:
    made, latents = density(), torch.from_numpy(modes(64))
    covariance = packed(0.1 * torch.eye(3), 64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    others = latents.clone()
    others[1::2] = 100.0
    with torch.inference_mode():
        log_prob, noise = made.log_prob(latents), made.log_mean_prob(latents, covariance)
        assert torch.equal(made.log_prob(latents[order]), log_prob[order])
        assert torch.equal(made.log_mean_prob(latents[order], covariance), noise[order])
        assert torch.equal(made.log_prob(others)[::2], log_prob[::2])
        assert torch.equal(made.log_mean_prob(others, covariance)[::2], noise[::2])


def test_upstreams_flows_have_the_names_of_its_entry_points() -> None:
    assert {name: each.url for name, each in PUBLISHED_FLOWS.items()} == {
        "sdss_II_galaxy_flow": "https://huggingface.co/pmelchior/spender/resolve/main/"
        "spender.sdss.paperII.galaxyflow-e6230ef8.pt",
        "desi_edr_galaxy_flow": "https://huggingface.co/pmelchior/spender/resolve/main/"
        "spender.desi-edr.galaxyflow-b71f8966.pt",
        "desi_edr_star_flow": "https://huggingface.co/pmelchior/spender/resolve/main/"
        "spender.desi-edr.starflow-a6ff6fcf.pt",
    }
    assert {each.model for each in PUBLISHED_FLOWS.values()} <= set(PUBLISHED)


def published(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> bytes:
    """Put a state of upstream's shape in the place of one that is published."""
    data = saved(OrderedDict(upstream(6).state_dict()))
    known = PUBLISHED_FLOWS["sdss_II_galaxy_flow"]
    sha256 = hashlib.sha256(data).hexdigest()[:8]
    changed = dataclasses.replace(known, sha256=sha256)
    monkeypatch.setitem(PUBLISHED_FLOWS, "sdss_II_galaxy_flow", changed)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    folder = tmp_path / "checkpoints"  # type: ignore[operator]
    folder.mkdir()
    (folder / known.file).write_bytes(data)
    return data


def test_a_published_flow_is_loaded_by_name_and_by_file(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    data = published(monkeypatch, tmp_path)
    by_name = load_density("sdss_II_galaxy_flow")
    file = tmp_path / "copy.pt"  # type: ignore[operator]
    file.write_bytes(data)
    by_file = load_density(str(file))
    for each in (by_name, by_file):
        assert isinstance(each.flow, AffineFlow)
        assert (each.model, each.model_sha256, each.held_out) == ("sdss_II", None, None)
        assert belongs_to(each, PUBLISHED["sdss_II"].sha256 + "0" * 56)
        assert belongs_to(each, "0" * 64) is False


def test_a_flow_of_upstreams_form_that_is_not_published_names_no_model() -> None:
    made = density_of(saved(dict(upstream(4).state_dict())), "own.pt")
    assert (made.n_latent, made.model, belongs_to(made, "0" * 64)) == (4, None, None)


def test_a_trained_density_belongs_to_one_checkpoint() -> None:
    assert belongs_to(density(), SHA256)
    assert belongs_to(density(), "0" * 64) is False


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(WeightsError, match="neither a file nor a published flow; the published flows are sdss_II_gal"):
        load_density("galaxyflow")
