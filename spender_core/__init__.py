"""spender_core: the neural spectrum model; torch only."""

from .architectures import describe, get_architecture
from .autoencoder import SpectrumAutoencoder, fit_amplitude
from .decoder import SpectrumDecoder
from .encoder import SpectrumEncoder
from .instrument import BOSS, DESI, LSF, SDSS, Instrument, get_instrument
from .model import Decoder, Encoder, Memory, SpectrumModel
from .training import Settings, SpectrumDataset, fit
from .weights import PUBLISHED, WeightsError, checkpoint_sha256, load_model

__all__ = [
    "BOSS",
    "DESI",
    "LSF",
    "PUBLISHED",
    "SDSS",
    "Decoder",
    "Encoder",
    "Instrument",
    "Memory",
    "Settings",
    "SpectrumDataset",
    "SpectrumAutoencoder",
    "SpectrumDecoder",
    "SpectrumEncoder",
    "SpectrumModel",
    "WeightsError",
    "checkpoint_sha256",
    "describe",
    "fit",
    "fit_amplitude",
    "get_architecture",
    "get_instrument",
    "load_model",
]
