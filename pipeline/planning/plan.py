"""The plan of a survey: what was asked for, its generations of targets, its models, and the fingerprints.

A fingerprint is the SHA-256 of canonical JSON of the settings that change numbers. It says nothing of the targets: each
chunk's marker names the rows that it was made of, so that a run that grows keeps what is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pipeline.config import SurveyConfig
from pipeline.errors import ConfigError, RefusedError
from pipeline.planning import schema
from pipeline.planning.density import SCORES
from pipeline.planning.model import ModelConfig
from pipeline.planning.partition import MAX_SHARD, Shard, choose_micro_batch, choose_shard, partition, widened
from pipeline.spectra.quality import Quality
from pipeline.storage import canonical_json
from pipeline.surveys.columns import Coordinate
from pipeline.surveys.registry import DEFAULT, get_survey
from pipeline.surveys.survey import Survey

if TYPE_CHECKING:
    import pandas as pd

# Raised when the layout of plan.json or of the run on disk changes, when the stores' schema does, and when a survey's
# readers or spectra/normalize.py give other numbers for the same file; the last two are part of every fingerprint.
# ENCODING_VERSION is raised when stages/infer.py or spender_core give other numbers for the same spectrum and weights,
# and is part of every model's.
PLAN_VERSION = 2
SCHEMA_VERSION = 2
NORMALIZATION_VERSION = 1
ENCODING_VERSION = 3
CODECS = 2  # generation of the stores' codecs (store/template.py) in new runs: no number depends on it
COMPILE_MODE = "eager"  # how the network's operations are run: compiled ones round otherwise

LATENTS_WITHOUT_Z = 3
"""The encoding version from which on spectra without a redshift can have latents."""

FIRST_VERSION = 1
"""Plans of this version are read, too: their runs had one generation of targets, which was part of the fingerprint."""

_TEXT_ROWS = 100_000


def targets_sha256(targets: pd.DataFrame, coordinates: Mapping[str, Coordinate]) -> str:
    """Return the SHA-256 (hex) of the targets' content: these columns, in row order.

    Taken of the values in the stores' types, not of a file: the same rows from FITS, CSV or Parquet agree.
    """
    digest = hashlib.sha256()
    for name, coordinate in coordinates.items():
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


def _starts(survey: Survey, layout: str, targets: pd.DataFrame) -> list[int]:
    """Return the rows with which the files of a layout begin that targets share; none where each has its own."""
    if not survey.layouts[layout].shared:
        return []
    paths = survey.paths(layout, targets["target"].tolist())
    return [row for row, path in enumerate(paths) if row == 0 or path != paths[row - 1]]


@dataclass(frozen=True)
class Generation:
    """The targets of a run at one time: all of its rows so far, and the hash of the survey's columns of them."""

    n_spectra: int
    targets_sha256: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run needs besides the targets: what was asked for, the partition and the models.

    generations: of its targets, the newest last; each holds the rows of the one before, and others behind them. kept:
    the targets' further columns, which are not the survey's. codecs: generation of the stores' codecs (`template`), of
    which a run keeps the one that it began with. The versions are those of the program that wrote it.
    """

    config: SurveyConfig
    generations: tuple[Generation, ...]
    shard: int
    chunk: int
    kept: Mapping[str, Coordinate] = field(default_factory=dict)
    models: tuple[ModelConfig, ...] = ()
    codecs: int = CODECS
    plan_version: int = PLAN_VERSION
    schema_version: int = SCHEMA_VERSION
    normalization_version: int = NORMALIZATION_VERSION
    encoding_version: int = ENCODING_VERSION

    def __post_init__(self) -> None:
        self.survey.require(self.config)
        choose_shard(self.n_spectra, self.shard, self.chunk)
        schema.require_free(self.kept)
        if any(model.density is not None for model in self.models):
            schema.require_free(self.kept, SCORES)
        for model in self.models:
            if not model.resolved:
                problem = f"the hash and sizes of model {model.name} are not known"
                raise RefusedError("model", problem, "read its checkpoint first, as pipeline.plan does")

    @classmethod
    def create(cls, config: SurveyConfig, targets: pd.DataFrame, kept: Mapping[str, Coordinate] | None = None) -> Self:
        """Plan a survey over these targets, without models yet. Raises ConfigError."""
        survey = get_survey(config.survey)
        survey.require(config)
        n_spectra = max(len(targets), config.expect or 0)
        shard, chunk = choose_shard(n_spectra, config.shard, config.chunk)
        if config.shard is None and config.chunk is None and shard < MAX_SHARD:
            starts = _starts(survey, config.layout, targets)
            shard, chunk = choose_shard(n_spectra, widened(shard, starts, n_spectra) if starts else shard)
        first = Generation(len(targets), targets_sha256(targets, survey.coordinates))
        return cls(config=config, generations=(first,), shard=shard, chunk=chunk, kept=kept or {})

    @property
    def n_spectra(self) -> int:
        """Number of its targets."""
        return self.generations[-1].n_spectra

    @property
    def targets_sha256(self) -> str:
        """SHA-256 (hex) of the survey's columns of its targets."""
        return self.generations[-1].targets_sha256

    @property
    def survey(self) -> Survey:
        """The survey of its targets."""
        return get_survey(self.config.survey)

    @property
    def coordinates(self) -> dict[str, Coordinate]:
        """The columns of its targets: the survey's, then those that were kept."""
        return {**self.survey.coordinates, **self.kept}

    @property
    def n_pixels(self) -> int:
        """Length of the observed wavelength grid."""
        return self.survey.instruments[self.config.instrument]

    @property
    def unusable(self) -> Quality:
        """Quality bits of the run that mean "no latents": runs of earlier versions have one more."""
        earlier = Quality.NO_REDSHIFT if self.encoding_version < LATENTS_WITHOUT_Z else Quality.GOOD
        return Quality.UNUSABLE | earlier

    def shards(self) -> list[Shard]:
        """Return the tasks' row ranges, in order."""
        return partition(self.n_spectra, self.shard)

    def grown(self) -> dict[int, int]:
        """Return the chunks that had fewer rows in an earlier generation, and where their rows end now."""
        shards = self.shards()
        edges = {each.n_spectra for each in self.generations[:-1] if each.n_spectra % self.shard}
        return {edge // self.shard: shards[edge // self.shard].stop for edge in sorted(edges)}

    def model(self, name: str) -> ModelConfig:
        """Return one of the plan's models. Raises ConfigError for a name it does not have."""
        for model in self.models:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.models) or "none yet"
        raise ConfigError("model", name, f"one of the plan's models: {known}")

    @property
    def ingest_fingerprint(self) -> str:
        """SHA-256 (hex) of the settings that decide the spectra store."""
        return _sha256(self._ingest_facts())

    def encode_fingerprint(self, model_name: str) -> str:
        """SHA-256 (hex) of the settings that decide one model's encodings store, those of the spectra included."""
        facts = {
            "spectra": self.ingest_fingerprint,
            "encoding version": self.encoding_version,
            "compile": COMPILE_MODE,
            **self.model(model_name).encode_facts,
        }
        return _sha256(facts)

    def density_fingerprint(self, model_name: str) -> str:
        """SHA-256 (hex) of what decides one model's scores, its encodings included."""
        return _sha256({"encodings": self.encode_fingerprint(model_name), **self.model(model_name).density_facts})

    def with_model(self, model: ModelConfig) -> Self:
        """Return the plan with a model added, its micro-batch chosen if it was left open.

        The same model again changes nothing but its checkpoint's location, and its density where it names one. Raises
        ConfigError, saying what differs, when the plan holds another model of that name.
        """
        if model.micro_batch is None:
            model = replace(model, micro_batch=choose_micro_batch(self.shard))
        for known in self.models:
            differences = _model_differences(model, known) if known.name == model.name else []
            if differences:
                remedy = "label the model with another name (--model NAME=M), or take that one out with --drop-model"
                raise ConfigError(
                    "model", model.name, f"the model that the plan holds ({'; '.join(differences)})", remedy
                )
            if known.name == model.name and model.density is None:
                model = replace(model, density=known.density, density_sha256=known.density_sha256)
        others = [known for known in self.models if known.name != model.name]
        return replace(self, models=tuple(sorted([*others, model], key=lambda each: each.name)))

    def without_model(self, name: str) -> Self:
        """Return the plan without one of its models. Raises ConfigError for a name it does not have."""
        dropped = self.model(name)
        return replace(self, models=tuple(each for each in self.models if each is not dropped))

    def difference(self, other: Plan) -> list[str]:
        """Say, one sentence each, what makes `other` (the plan that exists) another plan than this one.

        Only what changes a fingerprint counts: not the mirror, nor models that just one of the plans has. Targets are
        not compared.
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

    def require_current(self) -> None:
        """Refuse to go on with a run of another version of this package: its chunks and ours would not agree.

        Raises ConfigError.
        """
        for key, ours in _versions().items():
            if getattr(self, key) != ours:
                remedy = "it can be read; finish it with the version that began it, or plan again in another ROOT"
                raise ConfigError(f"plan.json {key}", getattr(self, key), f"{ours} in a run that goes on", remedy)

    def to_json(self) -> bytes:
        """Return plan.json: canonical JSON with its versions and, for readers, the fingerprints."""
        values = {
            **_versions(),
            "config": self.config.to_dict(),
            "shard": self.shard,
            "chunk": self.chunk,
            **({"codecs": self.codecs} if self.codecs != 1 else {}),
            **self._targets_facts(),
            "models": [model.to_dict() for model in self.models],
            "fingerprint": self.ingest_fingerprint,
            **self._model_fingerprints(),
            "targets_fingerprint": _sha256(self._targets_facts()),
        }
        return canonical_json(values)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read plan.json, that of a finished run of an earlier version, too; see `require_current`.

        Raises ConfigError for a plan of a later version, and for one edited by hand.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            version = values["plan_version"]
            canonical_json(values)  # what cannot be written has no fingerprint: NaN, halves of characters
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RefusedError("plan.json", f"plan.json is not a plan of this program: {error}") from error
        if version not in (FIRST_VERSION, PLAN_VERSION):
            remedy = "use the version of this package that wrote it, or plan again in another ROOT"
            raise ConfigError("plan.json plan_version", version, f"{FIRST_VERSION} or {PLAN_VERSION}", remedy)
        if version == FIRST_VERSION:
            values = _as_present(values)
        try:
            plan = cls(
                config=SurveyConfig.from_dict(values["config"]),
                generations=tuple(Generation(**each) for each in values["generations"]),
                shard=values["shard"],
                chunk=values["chunk"],
                codecs=_codecs(values.get("codecs", 1)),
                kept={each["name"]: Coordinate(each["dtype"], each["attributes"]) for each in values["kept"]},
                models=tuple(ModelConfig.from_dict(model) for model in values["models"]),
                **{key: values[key] for key in _versions()},
            )
        except ConfigError:
            raise
        except KeyError as error:
            raise RefusedError("plan.json", f"plan.json has no key {error}", "plan again in another ROOT") from error
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            problem = f"plan.json holds a value of the wrong type ({error})"
            raise RefusedError("plan.json", problem, "undo the edit") from error
        remedy = "undo the edit, or plan again in another ROOT"
        if values.get("fingerprint") != plan.ingest_fingerprint:
            raise ConfigError("plan.json fingerprint", values.get("fingerprint"), plan.ingest_fingerprint, remedy)
        expected = _sha256(plan._targets_facts())
        if version > FIRST_VERSION and values.get("targets_fingerprint") != expected:
            raise ConfigError("plan.json targets_fingerprint", values.get("targets_fingerprint"), expected, remedy)
        for key, models in plan._model_fingerprints().items():
            if values.get(key) != models:
                raise ConfigError(f"plan.json {key}", values.get(key), str(models), remedy)
        return plan

    def _model_fingerprints(self) -> dict[str, dict[str, str]]:
        scored = {each.name: self.density_fingerprint(each.name) for each in self.models if each.density is not None}
        found = {"model_fingerprints": {each.name: self.encode_fingerprint(each.name) for each in self.models}}
        return {**found, "density_fingerprints": scored} if scored else found

    def _targets_facts(self) -> dict[str, Any]:
        generations = [asdict(each) for each in self.generations]
        kept = [
            {"name": name, "dtype": each.dtype, "attributes": dict(each.attributes)} for name, each in self.kept.items()
        ]
        return {"generations": generations, "kept": kept}

    def _ingest_facts(self) -> dict[str, Any]:
        # Shard and chunk are here because a marker names a chunk by its index, which means other rows under
        # another shard, and because a store's bytes depend on both.
        facts = {
            "instrument": self.config.instrument,
            "layout": self.config.layout,
            "shard": self.shard,
            "chunk": self.chunk,
            "schema version": self.schema_version,
            "normalization version": self.normalization_version,
        }
        if self.plan_version > FIRST_VERSION:
            return {**facts, "survey": self.config.survey}
        own = {"targets": self.targets_sha256, "number of spectra": self.n_spectra}
        return {**facts, **own, **({} if self.config.survey == DEFAULT else {"survey": self.config.survey})}


def _versions() -> dict[str, int]:
    return {
        "plan_version": PLAN_VERSION,
        "schema_version": SCHEMA_VERSION,
        "normalization_version": NORMALIZATION_VERSION,
        "encoding_version": ENCODING_VERSION,
    }


def _as_present(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a plan.json of the first version under today's names."""
    only = {key: values.get(key) for key in ("n_spectra", "targets_sha256")}
    return {**values, "generations": [only], "kept": []}


def _model_differences(mine: ModelConfig, theirs: ModelConfig) -> list[str]:
    new, old = mine.encode_facts, theirs.encode_facts
    return [
        _sentence(f"{key} of model {mine.name}", new.get(key), old.get(key))
        for key in new | old
        if new.get(key) != old.get(key)
    ]


def _sentence(what: str, mine: object, theirs: object) -> str:
    return f"{what}: {_short(mine)} here, {_short(theirs)} in the existing plan"


def _short(value: object) -> str:
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text


def _sha256(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(facts)).hexdigest()


def _codecs(value: object) -> int:
    if not isinstance(value, int) or not 1 <= value <= CODECS:
        remedy = "use the version of this package that wrote it"
        raise ConfigError("plan.json codecs", value, f"a whole number of 1 to {CODECS}", remedy)
    return value
