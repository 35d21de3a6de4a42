"""spender_core: the neural spectrum model; torch only."""

from .autoencoder import SpectrumAutoencoder, fit_amplitude
from .decoder import SpectrumDecoder
from .encoder import SpectrumEncoder
from .instrument import BOSS, DESI, LSF, SDSS, Instrument, get_instrument
from .training import Settings, SpectrumArrays, fit
from .weights import PUBLISHED, WeightsError, checkpoint_sha256, load_model

__all__ = [
    "BOSS",
    "DESI",
    "LSF",
    "PUBLISHED",
    "SDSS",
    "Instrument",
    "Settings",
    "SpectrumArrays",
    "SpectrumAutoencoder",
    "SpectrumDecoder",
    "SpectrumEncoder",
    "WeightsError",
    "checkpoint_sha256",
    "fit",
    "fit_amplitude",
    "get_instrument",
    "load_model",
]
