"""Architectures by name: the registry, entry points, checkpoints that name theirs, and projected memory."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spender_core import (
    LSF,
    SDSS,
    Decoder,
    Encoder,
    Instrument,
    Memory,
    SpectrumAutoencoder,
    SpectrumModel,
    WeightsError,
    architectures,
    describe,
    get_architecture,
    load_model,
)
from spender_core.weights import architecture_of, read_extras

from .. import toy_architecture
from ..toy_architecture import install, random_checkpoint, save_model, write_distribution

pytestmark = pytest.mark.usefixtures("own_architectures")

WAVE_REST = torch.linspace(2400.0, 10400.0, 500)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Install the toy; gives its class, which is known by its entry point alone."""
    monkeypatch.syspath_prepend(install(tmp_path / "site"))
    yield importlib.import_module(toy_architecture.MODULE).Toy
    del sys.modules[toy_architecture.MODULE]


def coarse():
    """Make an instrument with every 24th bin of the SDSS grid."""
    return Instrument("sdss", SDSS().wave_obs[::24].clone())


def make(kind, instrument=None, **arguments):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return kind(instrument or coarse(), WAVE_REST, **arguments).eval()


def same(found, expected):
    spec, z = torch.linspace(0.5, 1.5, 2 * 164).reshape(2, 164), torch.tensor([0.02, 0.3])
    with torch.no_grad():
        pairs = zip(found.reconstruct(spec, z=z), expected.reconstruct(spec, z=z), strict=True)
        return all(torch.equal(a, b) for a, b in pairs)


def test_the_default_is_the_spectrum_autoencoder():
    assert architectures.DEFAULT == "spender"
    assert get_architecture("spender") is SpectrumAutoencoder
    assert architectures.architectures() == ["spender"]


def test_unknown_name_is_refused_with_the_known_ones_and_the_remedy():
    with pytest.raises(ValueError, match=r"'wavenet' is not known here, only spender: install the package .* workers"):
        get_architecture("wavenet")


def test_one_line_registers_an_architecture():
    assert architectures.register(toy_architecture.Toy) is toy_architecture.Toy
    assert get_architecture("toy") is toy_architecture.Toy
    assert architectures.architectures() == ["spender", "toy"]


def test_a_name_belongs_to_one_class():
    class Other(toy_architecture.Toy):
        architecture = "spender"

    with pytest.raises(ValueError, match=r"'spender' is already spender_core.autoencoder:SpectrumAutoencoder: give"):
        architectures.register(Other)
    assert get_architecture("spender") is SpectrumAutoencoder


def test_a_class_that_is_defined_again_replaces_the_earlier_one():
    def define():
        class Cell(toy_architecture.Toy):
            architecture = "cell"

        return architectures.register(Cell)

    define()
    again = define()
    assert get_architecture("cell") is again


def test_a_package_outside_is_found_by_its_entry_point(toy):
    assert "toy" not in architectures._registered
    assert architectures.architectures() == ["spender", "toy"]
    assert get_architecture("toy") is toy


@pytest.mark.slow
def test_a_package_is_imported_only_when_it_is_asked_for(tmp_path):
    install(tmp_path)
    code = (
        "import sys; from spender_core import architectures as a;"
        " assert 'toy' in a.architectures(); assert 'toy_architecture' not in sys.modules;"
        " a.get_architecture('toy'); assert 'toy_architecture' in sys.modules"
    )
    paths = [str(tmp_path), str(Path(__file__).resolve().parents[2])]
    environment = {"PYTHONPATH": ":".join(paths), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=100)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import not_there", "cannot be imported from broken:Model: ModuleNotFoundError: No module named 'not_there'"),
        ("Model = 3", "broken:Model is 3, expected a SpectrumModel"),
        (
            "from spender_core import SpectrumAutoencoder as Model",
            "calls its architecture 'spender', its entry point is named 'broken'",
        ),
    ],
)
def test_a_package_that_brings_no_architecture_is_refused(source, message, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(source)
    write_distribution(tmp_path, "broken", "broken = broken:Model")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    with pytest.raises(ValueError, match=message):
        get_architecture("broken")
    sys.modules.pop("broken", None)


def test_two_packages_with_one_name_are_refused(toy, tmp_path):
    write_distribution(tmp_path / "site", "rival", "toy = rival:Toy")
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match=r"'toy' is in several places, rival:Toy, toy_architecture:Toy: uninstall"):
        get_architecture("toy")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"n_latent": 3, "n_aux": 1, "speculator": False},
        {"n_latent": 7, "n_aux": 0, "speculator": True},
    ],
)
def test_the_default_architecture_comes_back_with_its_arguments(arguments, tmp_path):
    model = make(SpectrumAutoencoder, **arguments)
    loaded, losses = load_model(save_model(model, tmp_path / "model.pt"), coarse())
    assert type(loaded) is SpectrumAutoencoder
    assert loaded.arguments == model.arguments
    assert loaded.arguments.items() >= arguments.items()
    assert same(loaded, model)
    assert losses is None
    assert not loaded.training


def test_a_named_architecture_gives_the_numbers_of_the_same_legacy_file(tmp_path):
    model = make(SpectrumAutoencoder, n_latent=5, n_aux=1)
    torch.save({"model": model.state_dict()}, tmp_path / "legacy.pt")
    legacy, named = (
        load_model(file, coarse())[0] for file in (tmp_path / "legacy.pt", save_model(model, tmp_path / "named.pt"))
    )
    assert legacy.arguments == named.arguments
    assert same(legacy, named)


def test_a_second_architecture_comes_back(toy, tmp_path):
    model = make(toy, n_latent=4, bias=False)
    architectures.register(toy)
    file = save_model(model, tmp_path / "toy.pt")
    loaded, _ = load_model(file, coarse())
    assert isinstance(loaded, toy)
    assert isinstance(loaded, SpectrumModel)
    assert loaded.arguments == {"n_latent": 4, "bias": False}
    assert same(loaded, model)
    extras = read_extras(file)
    assert architecture_of(extras) == "toy"
    assert extras["instruments"] == ["sdss"]


def test_a_second_architecture_keeps_the_line_spread_function_and_the_grid_of_its_training(toy, tmp_path):
    instrument = coarse()
    instrument.lsf = LSF(torch.tensor([0.2, 1.0, 0.4]))
    file = save_model(make(toy, instrument), tmp_path / "toy.pt")
    caller = coarse()
    loaded, _ = load_model(file, caller)
    assert torch.equal(loaded.encoder.instrument.lsf.weight, instrument.lsf.weight)
    assert caller.lsf is None
    with pytest.raises(WeightsError, match=r"trained on 164 bins.*'sdss' has 3921"):
        load_model(file, SDSS())


def test_an_untrained_toy_of_the_survey_grid_is_made_in_one_call(toy, tmp_path):
    model, _ = load_model(random_checkpoint(tmp_path / "toy.pt", toy, n_latent=2), SDSS())
    assert model.n_latent == 2
    assert len(model.wave_obs) == 3921
    assert len(model.wave_rest) == 700


def checkpoint(tmp_path, **entries):
    model = make(SpectrumAutoencoder, n_latent=3)
    content = {"model": model.state_dict(), **describe(model), **entries}
    torch.save({key: value for key, value in content.items() if value is not None}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"architecture": "wavenet"}, r"model '.*model.pt' cannot be built: architecture 'wavenet' is not known here"),
        ({"architecture": 5}, "architecture '5' is not known here, only spender"),
        ({"arguments": None}, "no entry 'arguments'"),
        ({"arguments": [3]}, "no entry 'arguments'"),
        ({"arguments": {"depth": 3}}, "not of architecture 'spender': .*unexpected keyword argument 'depth'"),
        ({"arguments": {"n_latent": 4}}, "not of architecture 'spender': .*size mismatch"),
        ({"arguments": {"n_latent": "three"}}, "not of architecture 'spender'"),
        ({"arguments": {"n_aux": 2}}, "n_aux is 2, expected 0, or 1 for the redshift"),
        ({"arguments": {"n_latent": 3, "speculator": False}}, "Unexpected key.*beta"),
        ({"model": {"decoder.components.weight": torch.zeros(3)}}, "no decoder.wave_rest in its state"),
    ],
)
def test_a_checkpoint_that_does_not_fit_what_it_names_is_refused(entries, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        load_model(checkpoint(tmp_path, **entries), coarse())


def test_the_names_of_the_oldest_files_are_not_mapped_in_files_that_name_their_architecture(tmp_path):
    state = {key.replace("mlp.", "mlp.mlp."): value for key, value in make(SpectrumAutoencoder).state_dict().items()}
    with pytest.raises(WeightsError, match=r"Unexpected key.*mlp\.mlp"):
        load_model(checkpoint(tmp_path, model=state, arguments={}), coarse())


def test_a_file_without_the_entry_is_the_default_architecture():
    extras = read_extras("sdss-demo")
    assert "architecture" not in extras
    assert architecture_of(extras) == "spender"
    model, _ = load_model("sdss-demo", SDSS())
    assert model.arguments == {"n_latent": 6, "n_aux": 1, "speculator": True}


def test_a_description_is_checked_before_it_is_written():
    assert describe(make(SpectrumAutoencoder, n_latent=2)) == {
        "architecture": "spender",
        "arguments": {"n_latent": 2, "n_aux": 0, "speculator": True},
    }
    with pytest.raises(ValueError, match="architecture 'toy' is not known"):
        describe(make(toy_architecture.Toy))
    architectures.register(toy_architecture.Toy)
    for value in (torch.zeros(2), float("nan"), (1, 2)):
        with pytest.raises(ValueError, match="'toy' has arguments .*, expected what JSON can hold"):
            describe(make(WithOption, option=value))


class WithOption(toy_architecture.Toy):
    """The toy with an argument of any kind."""

    def __init__(self, instrument, wave_rest, option):
        super().__init__(instrument, wave_rest)
        self.option = option

    @property
    def arguments(self):
        return {"option": self.option}


@pytest.mark.parametrize("missing", ["arguments", "projected_memory"])
def test_a_model_without_a_part_of_the_contract_cannot_be_made(missing):
    members = {"arguments": property(lambda self: {}), "projected_memory": staticmethod(lambda **_: Memory(0, 0))}
    del members[missing]
    kind = type("Partial", (SpectrumModel,), members)
    with pytest.raises(TypeError, match=missing):
        kind(toy_architecture.ToyEncoder(coarse(), 2), toy_architecture.ToyDecoder(WAVE_REST, 2, True))
    for part in (Encoder, Decoder):
        with pytest.raises(TypeError, match="abstract"):
            part(coarse(), 2)


# 128 features of 3921 pixels, and ten copies of 3921 pixels and 7000 bins, in float32
LAYER, OUTPUT = 2_007_552, 436_840


@pytest.mark.parametrize(
    ("batch", "precision", "at_once"),
    [
        (1, "float32", 2 * LAYER + OUTPUT),
        (64, "float32", 64 * LAYER + 64 * OUTPUT),
        (64, "tf32", 64 * LAYER + 64 * OUTPUT),
        (256, "float32", 64 * LAYER + 256 * OUTPUT),
        (256, "bf16", 512 * LAYER + 256 * OUTPUT),
    ],
)
def test_projected_memory_of_the_default_architecture(batch, precision, at_once):
    found = SpectrumAutoencoder.projected_memory(
        n_pixels=3921, n_latent=6, n_rest=7000, batch=batch, precision=precision
    )
    assert found == Memory(kept=85_983_232 + 28_672_000, at_once=at_once)


def test_projected_memory_is_asked_of_the_class(toy):
    found = get_architecture("toy").projected_memory(
        n_pixels=3921, n_latent=3, n_rest=700, batch=8, precision="float32"
    )
    assert found == (0, 591_872)
