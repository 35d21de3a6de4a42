"""The plan of a survey: which rows belong to which task, what was asked for, and the fingerprint of it.

A task owns whole shards, so no two tasks ever write one object. The partition is integer arithmetic on the
number of spectra; the fingerprint is the SHA-256 of canonical JSON of what changes numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pipeline.config import SurveyConfig
from pipeline.errors import ConfigError, RefusedError
from pipeline.planning import schema
from pipeline.planning.model import ModelConfig
from pipeline.storage import canonical_json
from pipeline.surveys.registry import DEFAULT, get_survey
from pipeline.surveys.survey import Survey

if TYPE_CHECKING:
    import pandas as pd

# Raised when the layout of plan.json changes, when the stores' schema does, and when a survey's readers or
# spectra/normalize.py give other numbers for the same file; the last two are part of every fingerprint.
# ENCODING_VERSION is raised when stages/infer.py or spender_core give other numbers for the same spectrum and weights,
# and is part of every model's.
PLAN_VERSION = 1
SCHEMA_VERSION = 1
NORMALIZATION_VERSION = 1
ENCODING_VERSION = 2
COMPILE_MODE = "eager"  # how the network's operations are run: compiled ones round otherwise

MAX_SHARD = 4096
MIN_SHARDS = 16
# Spectra per inner chunk: small enough that one spectrum is read in less time than a request to an object store takes,
# large enough to read whole shards fast (benchmarks/RESULTS.md, "Chunks and compression").
CHUNK = 32
# Spectra per forward pass. More are no faster on a CPU, where the encoder works through 64 at a time.
MICRO_BATCH = 64


_TEXT_ROWS = 100_000


@dataclass(frozen=True)
class Shard:
    """The rows [start, stop) that one task owns; `index` counts them. On disk and in messages it is a chunk."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def partition(n_spectra: int, shard: int) -> list[Shard]:
    """Cut n_spectra rows into chunks of `shard` rows, the last one shorter."""
    return [
        Shard(index, start, min(start + shard, n_spectra)) for index, start in enumerate(range(0, n_spectra, shard))
    ]


def choose_shard(n_spectra: int, shard: int | None = None, chunk: int | None = None) -> tuple[int, int]:
    """Return (shard, chunk): spectra per task and per inner chunk, the first a multiple of the second.

    Without a wish: at most MAX_SHARD spectra, fewer in a small run so that there are at least MIN_SHARDS
    chunks (one spectrum each below that many). Raises ConfigError for wishes that cannot be met.
    """
    if n_spectra < 1:
        raise RefusedError("targets", "the table of targets has no rows", "loosen the condition of --where")
    if shard is None:
        inner = chunk or CHUNK
        # The largest shard that still gives MIN_SHARDS of them: ceil(n / shard) >= MIN_SHARDS.
        widest = min(MAX_SHARD, max(1, math.ceil(n_spectra / (MIN_SHARDS - 1)) - 1))
        shard = widest // inner * inner or (inner if chunk else widest)
    if not 1 <= shard <= MAX_SHARD:
        raise ConfigError("shard", shard, f"1 to {MAX_SHARD} spectra", "it bounds the memory of a task")
    if chunk is None:
        divisors = (size for size in range(1, shard + 1) if shard % size == 0)
        chunk = min(divisors, key=lambda size: abs(math.log(size / CHUNK)))
    if chunk < 1 or shard % chunk:
        raise ConfigError("chunk", chunk, f"a divisor of the shard, {shard}", "set --shard to a multiple of it")
    return shard, chunk


def choose_micro_batch(shard: int) -> int:
    """Return the spectra per forward pass by default: MICRO_BATCH, fewer when a task holds fewer."""
    return min(MICRO_BATCH, shard)


def targets_sha256(targets: pd.DataFrame, survey: Survey) -> str:
    """Return the SHA-256 (hex) of the targets' content: every coordinate of its survey, in row order.

    Taken of the values in the stores' types, not of a file: the same rows from FITS, CSV or Parquet agree.
    """
    digest = hashlib.sha256()
    for name, coordinate in survey.coordinates.items():
        digest.update(f"{name}:{coordinate.dtype}:{len(targets)}\n".encode())
        if coordinate.dtype == "str":
            # in pieces: as Python's own strings, those of a whole survey would take gigabytes
            for start in range(0, len(targets), _TEXT_ROWS):
                text = "\0".join(targets[name].iloc[start : start + _TEXT_ROWS].tolist())
                digest.update((text if start == 0 else "\0" + text).encode())
            continue
        values = np.ascontiguousarray(schema.column(targets, name, coordinate))
        if values.dtype.kind == "f":
            values = np.where(np.isnan(values), np.array(np.nan, values.dtype), values)
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run needs besides the targets: what was asked for, the partition and the models."""

    config: SurveyConfig
    n_spectra: int
    shard: int
    chunk: int
    targets_sha256: str
    models: tuple[ModelConfig, ...] = ()
    schema_version: int = SCHEMA_VERSION
    normalization_version: int = NORMALIZATION_VERSION
    encoding_version: int = ENCODING_VERSION

    def __post_init__(self) -> None:
        self.survey.require(self.config)
        choose_shard(self.n_spectra, self.shard, self.chunk)
        for model in self.models:
            if not model.resolved:
                problem = f"the hash and sizes of model {model.name} are not known"
                raise RefusedError("model", problem, "read its checkpoint first, as pipeline.plan does")

    @classmethod
    def create(cls, config: SurveyConfig, targets: pd.DataFrame) -> Self:
        """Plan a survey over these targets, without models yet. Raises ConfigError."""
        get_survey(config.survey).require(config)
        shard, chunk = choose_shard(len(targets), config.shard, config.chunk)
        sha256 = targets_sha256(targets, get_survey(config.survey))
        return cls(config=config, n_spectra=len(targets), shard=shard, chunk=chunk, targets_sha256=sha256)

    @property
    def survey(self) -> Survey:
        """The survey of its targets."""
        return get_survey(self.config.survey)

    @property
    def n_pixels(self) -> int:
        """Length of the observed wavelength grid."""
        return self.survey.instruments[self.config.instrument]

    def shards(self) -> list[Shard]:
        """Return the tasks' row ranges, in order."""
        return partition(self.n_spectra, self.shard)

    def model(self, name: str) -> ModelConfig:
        """Return one of the plan's models. Raises ConfigError for a name it does not have."""
        for model in self.models:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.models) or "none yet"
        raise ConfigError("model", name, f"one of the plan's models: {known}")

    @property
    def ingest_fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the spectra store."""
        return _sha256(self._ingest_facts())

    def encode_fingerprint(self, model_name: str) -> str:
        """SHA-256 (hex) of what decides one model's encodings store, the spectra included."""
        facts = {
            "spectra": self.ingest_fingerprint,
            "encoding version": self.encoding_version,
            "compile": COMPILE_MODE,
            **_encode_facts(self.model(model_name)),
        }
        return _sha256(facts)

    def with_model(self, model: ModelConfig) -> Self:
        """Return the plan with a model added, its micro-batch chosen if it was left open.

        The same model again changes nothing but its checkpoint's location. Raises ConfigError, saying what
        differs, when the plan holds another model of that name.
        """
        if model.micro_batch is None:
            model = replace(model, micro_batch=choose_micro_batch(self.shard))
        for known in self.models:
            differences = _model_differences(model, known) if known.name == model.name else []
            if differences:
                remedy = "label the model with another name (--model NAME=M), or plan it in another ROOT"
                raise ConfigError(
                    "model", model.name, f"the model that the plan holds ({'; '.join(differences)})", remedy
                )
        others = [known for known in self.models if known.name != model.name]
        return replace(self, models=tuple(sorted([*others, model], key=lambda each: each.name)))

    def difference(self, other: Plan) -> list[str]:
        """Say, one sentence each, what makes `other` (the plan that exists) another plan than this one.

        Only what changes a fingerprint counts: not the mirror, nor models that just one of the plans has.
        """
        mine, theirs = self._ingest_facts(), other._ingest_facts()
        found = [
            _sentence(key, mine.get(key), theirs.get(key)) for key in mine | theirs if mine.get(key) != theirs.get(key)
        ]
        known = {model.name: model for model in other.models}
        for model in self.models:
            if model.name in known:
                found += _model_differences(model, known[model.name])
        return found

    def to_json(self) -> bytes:
        """Return plan.json: canonical JSON with its version and, for readers, the fingerprints."""
        values = {
            "plan_version": PLAN_VERSION,
            "schema_version": self.schema_version,
            "normalization_version": self.normalization_version,
            "encoding_version": self.encoding_version,
            "config": self.config.to_dict(),
            "n_spectra": self.n_spectra,
            "shard": self.shard,
            "chunk": self.chunk,
            "targets_sha256": self.targets_sha256,
            "models": [model.to_dict() for model in self.models],
            "fingerprint": self.ingest_fingerprint,
            "model_fingerprints": {model.name: self.encode_fingerprint(model.name) for model in self.models},
        }
        return canonical_json(values)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read plan.json. Raises ConfigError for a plan of another release, and for one edited by hand."""
        try:
            values: dict[str, Any] = json.loads(text)
            values["plan_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError("plan.json", f"plan.json is not a plan of this program: {error}") from error
        # A run of one release must not go on under another that gives other numbers.
        expected = {
            "plan_version": PLAN_VERSION,
            "schema_version": SCHEMA_VERSION,
            "normalization_version": NORMALIZATION_VERSION,
            "encoding_version": ENCODING_VERSION,
        }
        for key, ours in expected.items():
            if values.get(key) != ours:
                remedy = "use the version of this package that wrote it, or plan again in another ROOT"
                raise ConfigError(f"plan.json {key}", values.get(key), str(ours), remedy)
        try:
            plan = cls(
                config=SurveyConfig.from_dict(values["config"]),
                n_spectra=values["n_spectra"],
                shard=values["shard"],
                chunk=values["chunk"],
                targets_sha256=values["targets_sha256"],
                models=tuple(ModelConfig.from_dict(model) for model in values["models"]),
            )
        except ConfigError:
            raise
        except KeyError as error:
            raise RefusedError("plan.json", f"plan.json has no key {error}", "plan again in another ROOT") from error
        except (TypeError, ValueError, AttributeError) as error:
            problem = f"plan.json holds a value of the wrong type ({error})"
            raise RefusedError("plan.json", problem, "undo the edit") from error
        remedy = "undo the edit, or plan again in another ROOT"
        if values.get("fingerprint") != plan.ingest_fingerprint:
            raise ConfigError("plan.json fingerprint", values.get("fingerprint"), plan.ingest_fingerprint, remedy)
        models = {model.name: plan.encode_fingerprint(model.name) for model in plan.models}
        if values.get("model_fingerprints") != models:
            raise ConfigError("plan.json model_fingerprints", values.get("model_fingerprints"), str(models), remedy)
        return plan

    def _ingest_facts(self) -> dict[str, Any]:
        # Shard and chunk are here because a marker names a chunk by its index, which means other rows under
        # another shard, and because a store's bytes depend on both.
        return {
            "targets": self.targets_sha256,
            "number of spectra": self.n_spectra,
            "instrument": self.config.instrument,
            "layout": self.config.layout,
            "shard": self.shard,
            "chunk": self.chunk,
            "schema version": self.schema_version,
            "normalization version": self.normalization_version,
            # left out where it is SDSS: plans of earlier versions knew no other
            **({} if self.config.survey == DEFAULT else {"survey": self.config.survey}),
        }


def _encode_facts(model: ModelConfig) -> dict[str, Any]:
    return {
        "checkpoint": model.sha256,
        "latents": model.n_latent,
        "restframe bins": model.n_rest,
        "variables": list(model.variables),
        "precision": model.precision,
        "micro-batch": model.micro_batch,
    }


def _model_differences(mine: ModelConfig, theirs: ModelConfig) -> list[str]:
    new, old = _encode_facts(mine), _encode_facts(theirs)
    return [_sentence(f"{key} of model {mine.name}", new[key], old[key]) for key in new if new[key] != old[key]]


def _sentence(what: str, mine: object, theirs: object) -> str:
    return f"{what}: {_short(mine)} here, {_short(theirs)} in the existing plan"


def _short(value: object) -> str:
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text


def _sha256(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(facts)).hexdigest()


Kind = tuple[str, str | None]
"""What a task does: its stage, and its model (None for ingest)."""
