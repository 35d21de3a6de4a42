from __future__ import annotations

import copy
import hashlib
import pickle
import zipfile

import fsspec
import numpy as np
import pytest
import torch
from spender import load_model as upstream_load_model
from spender.data.desi import DESI as UpstreamDESI
from spender.data.sdss import SDSS as UpstreamSDSS
from spender.model import SpectrumAutoencoder as UpstreamAutoencoder

import spender_core.weights as weights
from spender_core import (
    BOSS,
    DESI,
    LSF,
    PUBLISHED,
    SDSS,
    Instrument,
    SpectrumAutoencoder,
    WeightsError,
    checkpoint_sha256,
    load_model,
)

WAVE_REST = torch.linspace(2523.0, 9332.0, 5881)
LOSSES = torch.tensor([[3.0, 2.0], [3.1, 2.2]])


def upstream(n_latent=10, leaky=False, lsf=None):
    torch.manual_seed(0)
    act = [torch.nn.LeakyReLU()] * 4 if leaky else None
    return UpstreamAutoencoder(UpstreamSDSS(lsf=lsf), WAVE_REST, n_latent=n_latent, act=act).eval()


def legacy_names(state):
    return {k.replace("encoder.mlp.", "encoder.mlp.mlp."): v for k, v in state.items()}


def without_instrument(state):
    return {k: v for k, v in state.items() if not k.startswith("encoder.instrument.")}


def with_old_buffers(state):
    return state | {"encoder.instrument.skyline_mask": UpstreamSDSS._skyline_mask}


FORMS = {
    "plain": (upstream, lambda state: state),
    "list": (upstream, lambda state: [state]),
    "mlp.mlp": (upstream, legacy_names),
    "leaky": (lambda: upstream(leaky=True), lambda state: state),
    "no instrument": (upstream, without_instrument),
    "old buffers": (upstream, with_old_buffers),
    "lsf": (lambda: upstream(lsf=torch.tensor([0.1, 0.3, 1.0, 0.4, 0.2])), lambda state: state),
    "oldest": (lambda: upstream(leaky=True), lambda state: [legacy_names(without_instrument(state))]),
}


def close(found, expected):
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def save(path, state, **entries):
    torch.save({"model": state, "losses": LOSSES, **entries}, path)
    return path


@pytest.fixture
def spectra():
    generator = torch.Generator().manual_seed(3)
    spec = 1 + 0.2 * torch.randn(3, 3921, generator=generator)
    return spec, 25 * torch.rand(3, 3921, generator=generator), torch.tensor([0.001, 0.2, 0.49])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_published_form_gives_upstreams_numbers(form, tmp_path, spectra):
    make, change = FORMS[form]
    theirs = make()
    path = save(tmp_path / "model.pt", change(theirs.state_dict()))
    model, losses = load_model(path, SDSS())
    # upstream's own loader reads the same file, where it can
    reference = upstream_load_model(str(path), UpstreamSDSS()).eval() if form != "no instrument" else theirs
    spec, w, z = spectra
    with torch.no_grad():
        for other in (theirs, reference):
            for found, expected in zip(model._forward(spec, z=z), other._forward(spec, z=z)[:3], strict=True):
                close(found, expected)
            close(model.loss(spec, w, z=z), other.loss(spec, w, z=z))
    assert torch.equal(losses, LOSSES)
    assert not model.training


def test_first_paper_form_takes_the_redshift_as_last_input(tmp_path, spectra):
    spec, _, z = spectra
    theirs = upstream()
    state = dict(theirs.state_dict())
    column = torch.randn(128, 1, generator=torch.Generator().manual_seed(5))
    state["encoder.mlp.0.weight"] = torch.cat((state["encoder.mlp.0.weight"], column), dim=1)
    model, _ = load_model(save(tmp_path / "paper1.pt", legacy_names(state)), SDSS())
    assert model.encoder.n_aux == 1

    # direct evaluation: upstream's features, then the perceptron by hand in float64
    with torch.no_grad():
        value, key = theirs.encoder._downsample(spec)
        x = torch.sum(value * key.softmax(-1), dim=2).double()
        x = torch.cat((x, z.double()[:, None]), dim=1)
        for i in (0, 3, 6, 9):
            x = x @ state[f"encoder.mlp.{i}.weight"].double().T + state[f"encoder.mlp.{i}.bias"].double()
            if i < 9:
                x = torch.where(x >= 0, x, state[f"encoder.mlp.{i + 1}.weight"].double() * x)
        close(model.encode(spec, aux=z.unsqueeze(1)), x)
        close(model._forward(spec, z=z)[0], x)


def test_desi_model_loads_with_its_float64_grid(tmp_path):
    torch.manual_seed(0)
    theirs = UpstreamAutoencoder(UpstreamDESI(), torch.linspace(2000.0, 9824.0, 9780), n_latent=6).eval()
    model, _ = load_model(save(tmp_path / "desi.pt", theirs.state_dict()), DESI())
    spec = 1 + 0.2 * torch.randn(2, 7781)
    z = torch.tensor([0.1, 0.7])
    with torch.no_grad():
        for found, expected in zip(model._forward(spec, z=z), theirs._forward(spec, z=z)[:3], strict=True):
            close(found, expected)


def test_the_callers_instrument_is_not_changed(tmp_path):
    instrument = SDSS()
    path = save(tmp_path / "model.pt", FORMS["lsf"][0]().state_dict())
    model, _ = load_model(path, instrument)
    assert instrument.lsf is None
    assert isinstance(model.encoder.instrument.lsf, LSF)
    assert model.encoder.instrument is not instrument


def test_the_callers_lsf_is_kept_where_the_checkpoint_has_none(tmp_path):
    path = save(tmp_path / "model.pt", without_instrument(upstream().state_dict()))
    model, _ = load_model(path, SDSS(lsf=torch.tensor([1.0, 2, 1])))
    assert model.encoder.instrument.lsf.weight.flatten().tolist() == [1, 2, 1]


def test_half_precision_storage_is_read_as_float32(tmp_path):
    state = {k: v.half() if "mlp" in k or "conv" in k else v for k, v in upstream().state_dict().items()}
    model, _ = load_model(save(tmp_path / "half.pt", state), SDSS())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_losses_may_be_a_numpy_array(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model": upstream().state_dict(), "losses": np.arange(4.0).reshape(2, 2)}, path)
    assert np.array_equal(load_model(path, SDSS())[1], [[0, 1], [2, 3]])


def test_model_of_the_right_instrument_is_picked_from_a_list(tmp_path):
    first = upstream().state_dict()
    second = copy.deepcopy(first)
    second["decoder.mlp.0.bias"] += 1
    boss = {k: v for k, v in second.items() if "instrument" not in k}
    path = save(tmp_path / "both.pt", [first, boss], instruments=["sdss", "boss"])
    assert torch.equal(load_model(path, SDSS())[0].decoder.mlp[0].bias, first["decoder.mlp.0.bias"])
    assert torch.equal(load_model(path, BOSS())[0].decoder.mlp[0].bias, second["decoder.mlp.0.bias"])


def test_checkpoint_is_read_from_any_fsspec_url(tmp_path):
    path = save(tmp_path / "model.pt", upstream().state_dict())
    with fsspec.open("memory://models/model.pt", "wb") as stream:
        stream.write(path.read_bytes())
    model, _ = load_model("memory://models/model.pt", SDSS())
    assert model.n_latent == 10
    assert checkpoint_sha256("memory://models/model.pt") == hashlib.sha256(path.read_bytes()).hexdigest()


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_checkpoint_is_never_unpickled(tmp_path):
    path = tmp_path / "bomb.pt"
    torch.save({"model": upstream().state_dict(), "losses": Bomb()}, path)
    with pytest.raises(WeightsError, match="not a checkpoint with only tensors"):
        load_model(path, SDSS())
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(WeightsError, match="not a checkpoint with only tensors"):
        load_model(path, SDSS())


ODD_ENTRIES = {
    "archive/data.pkl": pickle.dumps(Bomb()),
    "archive/constants.pkl": pickle.dumps(Bomb()),
    "archive/code/__torch__.py": b"raise SystemExit('executed')",
    "archive/extra/evil.pkl": pickle.dumps(Bomb()),
    "../../escaped": b"escaped",
    "/escaped": b"escaped",
}


@pytest.mark.parametrize("name", ODD_ENTRIES)
def test_odd_entries_of_a_checkpoint_are_neither_executed_nor_unpacked(tmp_path, name):
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    good, odd = save(folder / "archive.pt", upstream().state_dict()), folder / "odd.pt"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(odd, "w") as target:
        prefix = source.namelist()[0].split("/")[0]
        replaced = name.replace("archive", prefix)
        for entry in source.namelist():
            if entry != replaced:
                target.writestr(entry, source.read(entry))
        target.writestr(replaced, ODD_ENTRIES[name])
    before = {path for path in tmp_path.rglob("*")}
    try:
        model, _ = load_model(odd, SDSS())
        assert model.n_latent == 10
    except WeightsError:
        pass
    assert {path for path in tmp_path.rglob("*")} == before
    if name.endswith(("data.pkl", "constants.pkl")):
        with pytest.raises(WeightsError, match="not a checkpoint with only tensors"):
            load_model(odd, SDSS())


def damaged(kind):
    state = dict(upstream().state_dict())
    if kind == "missing key":
        del state["encoder.conv2.0.weight"]
    elif kind == "unknown key":
        state["encoder.conv9.0.weight"] = torch.zeros(3)
    elif kind == "no decoder":
        state = {k: v for k, v in state.items() if not k.startswith("decoder")}
    elif kind == "aux of two":
        state["encoder.mlp.0.weight"] = torch.zeros(128, 258)
    return state


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing key", "Missing key.*encoder.conv2.0.weight"),
        ("unknown key", "Unexpected key.*encoder.conv9.0.weight"),
        ("no decoder", "has no decoder.wave_rest"),
        ("aux of two", "takes 258 inputs, expected 256 or 257"),
    ],
)
def test_state_of_another_model_is_refused(kind, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        load_model(save(tmp_path / "model.pt", damaged(kind)), SDSS())


def test_state_that_breaks_the_reader_is_refused(tmp_path):
    for key, value in (("decoder.mlp.0.weight", torch.zeros(10)), ("encoder.instrument.wave_obs", torch.tensor(1.0))):
        state = dict(upstream().state_dict()) | {key: value}
        with pytest.raises(WeightsError, match="not a spender model of a known form"):
            load_model(save(tmp_path / "model.pt", state), SDSS())


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = dict(upstream().state_dict())
    state["encoder.conv1.0.bias"] = torch.full((128,), torch.nan)
    with pytest.raises(WeightsError, match=r"not finite: encoder.conv1.0.bias"):
        load_model(save(tmp_path / "model.pt", state), SDSS())


def test_model_of_another_instrument_is_refused_by_its_name(tmp_path):
    path = save(tmp_path / "boss.pt", [without_instrument(upstream().state_dict())], instruments=["boss"])
    with pytest.raises(WeightsError, match="trained for boss, not for 'sdss'"):
        load_model(path, SDSS())


def test_our_own_checkpoints_carry_their_grid(tmp_path):
    coarse = Instrument("sdss", SDSS().wave_obs[::24].clone())
    model = SpectrumAutoencoder(coarse, WAVE_REST, n_latent=2)
    path = save(tmp_path / "coarse.pt", model.state_dict())
    assert load_model(path, coarse)[0].n_latent == 2
    with pytest.raises(WeightsError, match=r"trained on 164 bins.*'sdss' has 3921"):
        load_model(path, SDSS())


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04 broken"], ids=["empty", "text", "broken zip"])
def test_file_that_is_no_checkpoint_is_refused(data, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="not a checkpoint"):
        load_model(path, SDSS())


def test_truncated_checkpoint_is_refused(tmp_path):
    path = save(tmp_path / "model.pt", upstream().state_dict())
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match="not a checkpoint"):
        load_model(path, SDSS())


def test_grid_of_another_instrument_is_refused(tmp_path):
    path = save(tmp_path / "model.pt", upstream().state_dict())
    with pytest.raises(WeightsError, match=r"trained on 3921 bins.*'boss' has 4686"):
        load_model(path, BOSS())


def test_unknown_name_is_refused_with_the_published_ones():
    message = "neither a file nor a published model; the published models are sdss-galaxies, sdss-demo, sdss_I"
    with pytest.raises(WeightsError, match=message):
        load_model("sdss_III", SDSS())


def test_wrong_hash_is_refused(tmp_path):
    path = save(tmp_path / "model.pt", upstream().state_dict())
    found = checkpoint_sha256(path)
    load_model(path, SDSS(), sha256=found)
    with pytest.raises(WeightsError, match="has SHA-256"):
        load_model(path, SDSS(), sha256="0" * 64)


def test_published_name_is_read_from_the_cache_and_its_hash_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / PUBLISHED["sdss_II"].file
    cached.parent.mkdir()
    save(cached, upstream(6).state_dict())
    with pytest.raises(WeightsError, match="has SHA-256 .* expected c273bb69"):
        load_model("sdss_II", SDSS())
    entry = weights.Published(cached.name, checkpoint_sha256(cached)[:8], "sdss")
    monkeypatch.setitem(PUBLISHED, "sdss_II", entry)
    assert load_model("sdss_II", SDSS())[0].n_latent == 6


def test_a_published_model_that_cannot_be_fetched_is_not_called_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(weights, "_REPOSITORY", "http://127.0.0.1:1")  # where no server is
    expected = r"'sdss_II' could not be fetched from http://127.0.0.1:1/main/.* \(Cannot connect .*\): .* give its file"
    with pytest.raises(WeightsError, match=expected):
        load_model("sdss_II", SDSS())


def test_published_names_carry_their_hash_in_the_file_name():
    published = {name: entry for name, entry in PUBLISHED.items() if entry.revision is not None}
    assert set(published) == {"sdss_I", "sdss_I_superres", "sdss_II", "desi_edr_galaxy", "desi_edr_star"}
    for entry in published.values():
        assert entry.file.endswith(f"-{entry.sha256}.pt")
        assert entry.url.startswith("https://")
