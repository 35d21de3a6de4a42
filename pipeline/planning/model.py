"""A model of a plan: what is asked for and, once resolved, what its checkpoint turned out to be; the survey file."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pipeline.config import SurveyConfig, checked_keys, require_choice, require_count, require_text
from pipeline.errors import ConfigError, RefusedError, require_place
from pipeline.places import require_short
from pipeline.planning.domain import Domain
from pipeline.planning.schema import OUTPUTS, default_outputs
from pipeline.surveys.registry import DEFAULT, get_survey

DEFAULT_ARCHITECTURE = "spender"
"""Of checkpoints that name none, and of plans of earlier versions."""

PRECISIONS = ("float32", "tf32", "bf16")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One model of a plan: what the user asked for and, once resolved, what the checkpoint turned out to be.

    name: label of the encodings store. checkpoint: path, fsspec URL or published name.
    variables: what lands in the store. precision: numerical precision of the model.
    micro_batch: spectra per forward pass; None lets the plan choose.
    sha256, n_latent, n_rest, architecture, domain: of the checkpoint, filled in by `resolve`; the domain is None where
    the checkpoint has none.
    """

    name: str
    checkpoint: str
    variables: tuple[str, ...] = dataclasses.field(default_factory=default_outputs)
    precision: str = "float32"
    micro_batch: int | None = None
    sha256: str | None = None
    n_latent: int | None = None
    n_rest: int | None = None
    architecture: str = DEFAULT_ARCHITECTURE
    domain: Domain | None = None

    def __post_init__(self) -> None:
        require_text("model.checkpoint", self.checkpoint, "a path, URL or published name", "pass --model M")
        require_place("model.checkpoint", self.checkpoint)
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            expected = "letters, digits, '.', '_' and '-', starting with a letter or digit"
            raise ConfigError("model.name", self.name, expected, "it names the folder of the encodings")
        require_short("model.name", self.name)
        object.__setattr__(self, "variables", _ordered(self.variables))
        require_choice("model.precision", self.precision, PRECISIONS)
        if self.micro_batch is not None:
            require_count("model.micro_batch", self.micro_batch, 1)
        if self.sha256 is not None and not (isinstance(self.sha256, str) and _SHA256.match(self.sha256)):
            raise ConfigError("model.sha256", self.sha256, "64 lower-case hexadecimal digits")
        for key in ("n_latent", "n_rest"):
            if getattr(self, key) is not None:
                require_count(f"model.{key}", getattr(self, key), 1)
        if self.domain is not None and not isinstance(self.domain, Domain):
            raise ConfigError("model.domain", self.domain, "what the checkpoint says", "leave it out")

    @property
    def resolved(self) -> bool:
        """Whether everything a plan needs to know of the checkpoint is known."""
        return None not in (self.sha256, self.n_latent, self.n_rest, self.micro_batch)

    def resolve(
        self,
        *,
        sha256: str,
        n_latent: int,
        n_rest: int,
        architecture: str = DEFAULT_ARCHITECTURE,
        domain: Domain | None = None,
        micro_batch: int | None = None,
    ) -> Self:
        """Return the model with the facts of its checkpoint; `micro_batch` only fills in an open choice."""
        chosen = self.micro_batch if self.micro_batch is not None else micro_batch
        return dataclasses.replace(
            self,
            sha256=sha256,
            n_latent=n_latent,
            n_rest=n_rest,
            architecture=architecture,
            domain=domain,
            micro_batch=chosen,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the model as JSON-ready values."""
        return {**dataclasses.asdict(self), "variables": list(self.variables)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a model from a mapping; unknown and missing keys raise ConfigError by name."""
        checked = checked_keys(cls, values, "model")
        if checked.get("domain") is not None:
            try:
                checked = {**checked, "domain": Domain.from_dict(checked["domain"])}
            except ValueError as error:
                raise RefusedError("model.domain", f"model.{error}", "leave it out: the checkpoint says it") from error
        return cls(**checked)


def read_toml(text: str) -> tuple[SurveyConfig, tuple[ModelConfig, ...]]:
    """Read a survey file: the keys of SurveyConfig at the top level, one `[[model]]` table per model.

    A model's name defaults to the last part of its checkpoint without the suffix. Raises ConfigError.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RefusedError("config", f"the survey file is not valid TOML: {error}") from error
    tables = values.pop("model", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("model", tables, "[[model]] tables", "write [[model]] with double brackets")
    models = [ModelConfig.from_dict({"name": model_name(str(t.get("checkpoint", ""))), **t}) for t in tables]
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise ConfigError("model.name", names, "different names", "give each [[model]] its own name")
    return SurveyConfig.from_dict(with_defaults(values)), tuple(models)


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a new survey, with the layout and the instrument that its survey names first."""
    survey = get_survey(values.get("survey", DEFAULT))
    return {"layout": next(iter(survey.layouts)), "instrument": next(iter(survey.instruments)), **values}


def model_name(checkpoint: str) -> str:
    """Return the default name of a model: the last part of its checkpoint's path, without a model suffix."""
    stem = re.sub(r"\.(pt|pth|ckpt|safetensors)\Z", "", checkpoint.rstrip("/").rsplit("/", 1)[-1])
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")


def _ordered(variables: object) -> tuple[str, ...]:
    """Return the variables in the order of OUTPUTS, so that the order of asking changes no fingerprint."""
    if isinstance(variables, str) or not isinstance(variables, (list, tuple)):
        raise ConfigError("model.variables", variables, "a list of variable names")
    for name in variables:
        require_choice("model.variables", name, tuple(OUTPUTS))
    if not variables:
        raise ConfigError("model.variables", variables, f"at least one of {', '.join(OUTPUTS)}")
    return tuple(name for name in OUTPUTS if name in variables)
