"""What training the embedded model minimizes: a teacher shows which latents to find, mocks know their restframe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from galaxies import NORM_WINDOW
from mocks import Mocks
from torch import Tensor, nn

from spender_core.autoencoder import SpectrumAutoencoder
from spender_core.convolution import first_stage, second_stage, third_stage
from spender_core.dataset import Batch
from spender_core.encoder import KERNELS, N_FEATURE, SpectrumEncoder, _blocks
from spender_core.sharing import share

FLOOR = 0.05  # of a chi2 excess per bin below which there is little to gain


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
        self.last = nn.Linear(128, len(basis.response))
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
    def of(cls, mocks: Mocks, n_latent: int, seed: int, n: int = 12288) -> Basis:
        """Analyze n mocks."""
        rng = mocks.generator((seed, 0, 9))
        rest = torch.cat([normed(mocks, mocks.restframes(512, rng)) for _ in range(n // 512)])
        center = rest.median(dim=0).values
        apart = rest - center
        weight = 1 / (apart.square().mean(1, keepdim=True).sqrt() + 0.05)
        torch.manual_seed(seed)
        directions = torch.svd_lowrank(apart * weight, q=2 * n_latent, niter=6)[2][:, :n_latent]
        spread = 1.4826 * (apart @ directions).abs().median(dim=0).values
        return cls(center, directions / spread, directions.T * spread[:, None])


def normed(mocks: Mocks, rest: Tensor) -> Tensor:
    """Bring restframes, shape (N, R), to the norm of the pipeline."""
    window = (mocks._rest > NORM_WINDOW[0]) & (mocks._rest < NORM_WINDOW[1])
    return rest / rest[:, window].median(dim=1, keepdim=True).values


class Guided:
    """The loss on mocks: log of the chi2 excess where observed, of the deviation anywhere, and from the teacher.

    whole: weight of the deviation over the whole restframe; floor: mean square deviation with little to gain below.
    """

    def __init__(self, teacher: Teacher, whole: float, floor: float) -> None:
        self._teacher, self._whole, self._floor = teacher, whole, floor

    def __call__(self, model: SpectrumAutoencoder, batch: Batch) -> Tensor:
        """Mean loss of a batch."""
        s = encode(model, batch.spec)
        with torch.autocast(batch.spec.device.type, enabled=False):
            return self.terms(model, batch, s, model.decode(s)).mean()

    def terms(self, model: SpectrumAutoencoder, batch: Batch, s: Tensor, restframe: Tensor) -> Tensor:
        """Loss of each mock, shape (N,), with its latents and what is decoded from them."""
        assert batch.truth is not None
        with torch.autocast(batch.spec.device.type, enabled=False):
            with torch.no_grad():
                wanted = self._teacher(batch.truth)
            difference = restframe - batch.truth
            observed = model.decoder.transform(difference, model.encoder.instrument, batch.z)
            excess = (batch.w * observed.square()).sum(1) / (batch.w > 0).sum(1).clamp_min(1)
            whole = difference.square().mean(1)
            apart = (s - wanted).square().mean(1)
            losses: Tensor = (
                torch.log(excess + FLOOR) + self._whole * torch.log(whole + self._floor) + 0.3 * torch.log(apart + 0.02)
            )
        return losses


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
            chi2 = reduced_chi2(model, batch.spec[m:], batch.w[m:], batch.z[m:], s)
            first, second = s.chunk(2)
            apart = (first - second).square().mean(1)
            real = torch.log(chi2 + 0.1).mean() + self._together * torch.log(apart + 0.02).mean()
        return mock + real


def reduced_chi2(model: SpectrumAutoencoder, spec: Tensor, w: Tensor, z: Tensor, s: Tensor) -> Tensor:
    """chi2 per bin with weight, shape (N,), of spectra with these latents."""
    reconstruction, valid = model.decoder.observe(model.decode(s), model.encoder.instrument, z)
    w = w * valid
    chi2: Tensor = (w * (spec - reconstruction).square()).sum(1) / (w > 0).sum(1).clamp_min(1)
    return chi2


@dataclass(frozen=True)
class Shares:
    """Spectra in a batch: pairs of mocks, mocks with a part hidden, pairs of real galaxies."""

    pairs: int = 24
    hidden: int = 24
    real: int = 12

    @property
    def mocks(self) -> int:
        """Spectra that are mocks."""
        return 2 * self.pairs + self.hidden

    @property
    def total(self) -> int:
        """Spectra in all."""
        return self.mocks + 2 * self.real


class Lines:
    """Widths of the stronger emission lines in restframes, compressed, over the continuum on both sides.

    Sums of bins alone: differentiable, and the same for what is decoded and for the truth.
    """

    # Angstrom: what a line is summed over, and the continuum blueward and redward
    BANDS = (
        ((3717, 3740), (3690, 3712), (3745, 3767)),  # [O II]
        ((4850, 4875), (4820, 4846), (4879, 4904)),  # H beta
        ((4948, 4972), (4918, 4944), (4976, 4992)),  # [O III]
        ((4996, 5020), (4976, 4992), (5024, 5050)),
        ((6555, 6574), (6515, 6538), (6602, 6625)),  # H alpha
        ((6576, 6595), (6515, 6538), (6602, 6625)),  # [N II]
        ((6707, 6744), (6675, 6703), (6748, 6773)),  # [S II]
    )
    SOFT = 2.0  # Angstrom: width from which its logarithm counts

    def __init__(self, wave: Tensor) -> None:
        step = torch.gradient(wave.double())[0].float()

        def within(low: float, high: float) -> Tensor:
            return (wave > low) & (wave < high)

        self._inside = torch.stack([within(*line) * step for line, _, _ in self.BANDS], 1)
        sides = torch.stack([within(*blue) | within(*red) for _, blue, red in self.BANDS], 1).float()
        self._level = sides / sides.sum(0)

    def __call__(self, restframe: Tensor, truth: Tensor) -> Tensor:
        """Compressed widths, shape (N, lines), in units of the true continuum: (N, R), (N, R)."""
        level = (truth @ self._level).clamp_min(0.05)
        flux = restframe @ self._inside - (restframe @ self._level) * self._inside.sum(0)
        return torch.asinh(flux / level / self.SOFT)


class Paired:
    """The loss on mocks in pairs, mocks with a part hidden, and real galaxies in pairs; one of each pair is moved.

    Mocks: the guided loss, and the log of how far the widths of lines are off. Pairs: the log of how far latents are
    apart in units of `variance`, shape (S,), of each latent among galaxies, by which distances are judged later. Real
    galaxies: the log of chi2.
    """

    def __init__(self, mock: Guided, lines: Lines, shares: Shares, variance: Tensor) -> None:
        self._mock, self._lines, self._shares, self._variance = mock, lines, shares, variance

    def __call__(self, model: SpectrumAutoencoder, batch: Batch) -> Tensor:
        """Mean loss of a batch as `Pairs` lays it out."""
        assert batch.truth is not None
        n, m = self._shares.pairs, self._shares.mocks
        s = encode(model, batch.spec)
        truth = torch.cat([batch.truth[:n], batch.truth])  # both of a pair have the same
        restframe = model.decode(s[:m])
        mock = self._mock.terms(model, Batch(batch.spec[:m], batch.w[:m], batch.z[:m], truth=truth), s[:m], restframe)
        error = (self._lines(restframe, truth) - self._lines(truth, truth)).abs().mean(1)
        mock = mock + 0.5 * torch.log(error + 0.03)
        real = reduced_chi2(model, batch.spec[m:], batch.w[m:], batch.z[m:], s[m:])
        first, second = s[m:].chunk(2)
        apart = torch.cat([s[:n] - s[n : 2 * n], first - second]).square() / self._variance
        together = torch.log(apart.mean(1) + 0.003).mean()
        return mock.mean() + together + torch.log(real + 0.3).mean()
