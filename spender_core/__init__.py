"""spender_core: the neural spectrum model; torch only."""

from .architectures import describe, get_architecture
from .augment import Augmentation
from .autoencoder import SpectrumAutoencoder, fit_amplitude
from .dataset import Batch, Pooled, SpectrumDataset
from .decoder import SpectrumDecoder
from .encoder import SpectrumEncoder
from .instrument import BOSS, DESI, LSF, SDSS, Instrument, get_instrument
from .model import Decoder, Encoder, Memory, SpectrumModel
from .objective import Losses, Moment, Own, Slope
from .training import Settings, Stopped, fit
from .weights import PUBLISHED, WeightsError, checkpoint_sha256, load_model

__all__ = [
    "Augmentation",
    "BOSS",
    "Batch",
    "DESI",
    "Decoder",
    "Encoder",
    "Instrument",
    "LSF",
    "Losses",
    "Memory",
    "Moment",
    "Own",
    "PUBLISHED",
    "Pooled",
    "SDSS",
    "Settings",
    "Slope",
    "SpectrumAutoencoder",
    "SpectrumDataset",
    "SpectrumDecoder",
    "SpectrumEncoder",
    "SpectrumModel",
    "Stopped",
    "WeightsError",
    "checkpoint_sha256",
    "describe",
    "fit",
    "fit_amplitude",
    "get_architecture",
    "get_instrument",
    "load_model",
]
