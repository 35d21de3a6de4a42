"""Whether the worst run of pixels is where a feature was put: mocks that the model encodes, with an offset in 20 pixels.

    python benchmarks/reasons.py [--spectra 1000] [--model sdss-galaxies] [--amplitudes 1,1.5,2,3,6]

Each mock gets, in 20 pixels in a row that have weight, an offset of so many sigma per pixel, above or below, before it is
encoded: what the model takes in of the feature is lost. Found is a feature whose worst run overlaps it by half at least,
and has its sign. The last line is the share that is found at 6 sigma per pixel over 0.95. Beside it: how long the reasons
take, of what encoding takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.compute.stages import process
from pipeline.compute.stages.infer import encode_spectra
from pipeline.spectra.quality import Quality
from spender_core import SDSS, load_model
from spender_core.residuals import RUN

PLAIN = ("latents", "restframe", "chi2", "n_pixels", "amplitude", "rest_first", "rest_last")
REASONS = ("region_chi2", "run_significance", "run_wavelength")
WANTED, SHARE = 6.0, 0.95
Spectra = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]
