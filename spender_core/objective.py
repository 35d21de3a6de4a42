"""What training minimizes: named sums over a batch, as the papers have them or of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from .augment import Augmentation, augmented
from .dataset import Batch
from .losses import Form, annealed, consistency, fidelity, similarity
from .model import SpectrumModel
from .parallel import World
from .precision import arithmetic


@dataclass(frozen=True)
class Moment:
    """When a batch is seen.

    epoch: from 0, of `epochs`. step: from 0, of `steps` of this epoch. seed: of the run. training: False for
    validation. world: the processes that share the batch.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    seed: int = 0
    training: bool = True
    world: World = World()


class Objective(Protocol):
    """A function to minimize, called once per batch.

    identity: what it is made of, plain values; a training run goes on only with the same.
    """

    @property
    def identity(self) -> str | dict[str, Any]:
        """See the class."""

    def __call__(self, model: SpectrumModel, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """Named terms whose sum is minimized, each a scalar: the sum over this process's spectra of the batch.

        Added up over the processes of `moment.world`, they must be what one process gives for the whole batch.
        """


@dataclass(frozen=True)
class Own:
    """An objective of one term that is a function's mean over a batch.

    name: of the term, and what a checkpoint knows the function by. function: (model, batch) -> scalar, the mean loss of
    the spectra of the batch.
    """

    name: str
    function: Callable[[SpectrumModel, Batch], Tensor]

    @property
    def identity(self) -> str:
        """The name."""
        return self.name

    def __call__(self, model: SpectrumModel, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """Return the term, see `Objective`."""
        return {self.name: self.function(model, batch) * len(batch)}


@dataclass(frozen=True)
class Slope:
    """Steepness k of the similarity loss: constant, or annealed in cycles, see `losses.annealed`.

    value: of the constant. top, step, cycle, last: highest slope, rise per epoch, epochs per cycle, and epochs at the
    end that have slope 0.
    """

    kind: Literal["constant", "cycles"] = "constant"
    value: float = 5.0
    top: float = 9.9
    step: float = 0.1
    cycle: int = 100
    last: int = 10

    def at(self, epoch: int, epochs: int) -> float:
        """Slope in an epoch, from 0, of so many."""
        if self.kind == "constant":
            return self.value
        return annealed(epoch, epochs, top=self.top, step=self.step, cycle=self.cycle, last=self.last)


@dataclass(frozen=True)
class Losses:
    """Fidelity, with the similarity and consistency losses of paper II (arXiv:2302.02496) where they have a weight.

    similarity, consistency: weights, 0 to leave a loss out. form, amplitude, width: see `losses.similarity`. slope: k
    of the similarity loss. scale2: square of the latents' tolerance in the consistency loss; None for the latents' mean
    variance in the batch. sloped_consistency: multiply the consistency loss by k, too, as the DESI models were trained.
    augmentation: how spectra are altered for the consistency loss. ValueError for consistency without augmentation.
    """

    similarity: float = 0.0
    consistency: float = 0.0
    form: Form = "scale_free"
    amplitude: float = 20.0
    width: float | None = None
    slope: Slope = field(default_factory=Slope)
    scale2: float | None = None
    sloped_consistency: bool = False
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        if self.consistency and self.augmentation is None:
            raise ValueError("consistency has a weight, but there is no augmentation: give one, or the weight 0")

    @property
    def identity(self) -> dict[str, Any]:
        """All of its values."""
        return asdict(self)

    def __call__(self, model: SpectrumModel, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """Return the terms, with their weights, see `Objective`. ValueError for consistency without `batch.rows`."""
        s = _encode(model, batch.spec, batch.z)
        # The decoder is a small part of the work, and bfloat16 would round what it makes to 0.4 %.
        with arithmetic("float32", s.device):
            _, restframe, reconstruction, valid = model.reconstruct(batch.spec, z=batch.z, s=s)
        terms = {"fidelity": fidelity(batch.spec, batch.w * valid, reconstruction).sum()}
        slope = self.slope.at(moment.epoch, moment.epochs)
        world = moment.world
        if self.similarity:
            all_s, all_restframe = world.gather(s, restframe)
            rows = world.share(len(all_s))
            cost = similarity(
                all_s,
                all_restframe,
                model.wave_rest,
                slope,
                form=self.form,
                amplitude=self.amplitude,
                width=self.width,
                rows=rows,
            )
            terms["similarity"] = self.similarity * cost
        if self.consistency:
            altered = self._latents_of_altered(model, batch, moment)
            (all_s,) = world.gather(s)
            cost = consistency(all_s, altered, scale2=self.scale2, rows=world.share(len(all_s)))
            terms["consistency"] = self.consistency * (slope if self.sloped_consistency else 1.0) * cost
        return terms

    def _latents_of_altered(self, model: SpectrumModel, batch: Batch, moment: Moment) -> Tensor:
        if batch.rows is None or self.augmentation is None:
            raise ValueError("the batch has no rows, which augmentation draws by: give Batch(rows=...)")
        # altered alike in every epoch of a validation, so that these can be compared
        epoch = moment.epoch if moment.training else 0
        spec, _, z = augmented(
            batch.spec, batch.w, batch.z, batch.rows, model.wave_obs, self.augmentation, moment.seed, epoch
        )
        return _encode(model, spec, z)


def _encode(model: SpectrumModel, spec: Tensor, z: Tensor) -> Tensor:
    """Return latents in the dtype of the spectra, whatever the encoder computes in."""
    return model.encode(spec, z.unsqueeze(1) if model.encoder.n_aux else None).to(spec.dtype)
