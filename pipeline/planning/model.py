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
from pipeline.planning.density import COVARIANCE, DENSITY_VERSION, LATENTS, density_variables
from pipeline.planning.domain import Domain
from pipeline.planning.redshift import CATALOG, METHODS, REDSHIFT_VARIABLES, REDSHIFT_VERSION, REFINE, WINDOW
from pipeline.planning.schema import OUTPUTS, Variable, default_outputs, variables_of
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
    variables: what lands in the store. precision: float32, tf32 or bf16.
    micro_batch: spectra per forward pass; None lets the plan choose. redshift: whose it takes: catalog, refine or
    blind. redshift_window: how far from the catalog's refine looks, km/s. density: of its latents, path, fsspec URL or
    published name; None for none.
    sha256, n_latent, n_rest, architecture, domain: of the checkpoint, filled in by `resolve`; the domain is None where
    the checkpoint has none. redshift_range, basis: what is scanned, and the SHA-256 of what it is scanned with
    (`store.root.basis_url`), None where neither redshifts nor latents are fitted. density_sha256: of the density's
    file.
    """

    name: str
    checkpoint: str
    variables: tuple[str, ...] = dataclasses.field(default_factory=default_outputs)
    precision: str = "float32"
    micro_batch: int | None = None
    redshift: str = CATALOG
    redshift_window: float | None = None
    density: str | None = None
    sha256: str | None = None
    n_latent: int | None = None
    n_rest: int | None = None
    architecture: str = DEFAULT_ARCHITECTURE
    domain: Domain | None = None
    redshift_range: tuple[float, float] | None = None
    basis: str | None = None
    density_sha256: str | None = None

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
        require_choice("model.redshift", self.redshift, METHODS)
        _require_window(self.redshift, self.redshift_window)
        if self.density is not None:
            require_text("model.density", self.density, "a path, URL or published name", "pass --density FLOW")
            require_place("model.density", self.density)
            if LATENTS not in self.variables:
                remedy = "a density is of latents: store them, too"
                raise ConfigError("model.variables", ",".join(self.variables), f"{LATENTS} among them", remedy)
        for key in ("sha256", "basis", "density_sha256"):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, str) and _SHA256.match(value)):
                raise ConfigError(f"model.{key}", value, "64 lower-case hexadecimal digits")
        if self.redshift_range is not None:
            object.__setattr__(self, "redshift_range", _range(self.redshift_range))
        for key in ("n_latent", "n_rest"):
            if getattr(self, key) is not None:
                require_count(f"model.{key}", getattr(self, key), 1)
        if self.domain is not None and not isinstance(self.domain, Domain):
            raise ConfigError("model.domain", self.domain, "what the checkpoint says", "leave it out")

    @property
    def resolved(self) -> bool:
        """Whether everything a plan needs to know of the checkpoint is known."""
        needed = (self.basis, self.redshift_range) if self.needs_basis else ()
        scored = (self.density_sha256,) if self.density is not None else ()
        return None not in (self.sha256, self.n_latent, self.n_rest, self.micro_batch, *needed, *scored)

    @property
    def needs_basis(self) -> bool:
        """Whether redshifts or latents are fitted."""
        return self.redshift != CATALOG or any(OUTPUTS[name].of_fit for name in self.variables)

    @property
    def window(self) -> float | None:
        """How far from the catalog's redshift another is looked for, km/s; None where it is not."""
        return (self.redshift_window or WINDOW) if self.redshift == REFINE else None

    @property
    def stored(self) -> dict[str, Variable]:
        """The variables of its store: the outputs asked for, what is found of redshifts, and quality."""
        variables = variables_of(self.variables)
        return variables if self.redshift == CATALOG else {**variables, **REDSHIFT_VARIABLES}

    @property
    def scored(self) -> dict[str, Variable]:
        """The variables of its density's store; none where it has no density."""
        return {} if self.density is None else density_variables(with_covariance=COVARIANCE in self.variables)

    @property
    def density_label(self) -> str:
        """Name of its density for readers: the file's, not where that lies."""
        return (self.density or "").rstrip("/").rsplit("/", 1)[-1]

    @property
    def encode_facts(self) -> dict[str, Any]:
        """What decides the numbers of its encodings."""
        of_fit = {
            "redshift": self.redshift,
            "redshift window": self.window,
            "redshifts scanned": self.redshift_range and list(self.redshift_range),
            "templates": self.basis,
            "redshift version": REDSHIFT_VERSION,
        }
        return {
            "checkpoint": self.sha256,
            "latents": self.n_latent,
            "restframe bins": self.n_rest,
            "variables": list(self.variables),
            "precision": self.precision,
            "micro-batch": self.micro_batch,
            **(of_fit if self.needs_basis else {}),
        }

    @property
    def density_facts(self) -> dict[str, Any]:
        """What decides the scores of its density, beside the encodings."""
        return {"density": self.density_sha256, "density version": DENSITY_VERSION}

    def resolve(
        self,
        *,
        sha256: str,
        n_latent: int,
        n_rest: int,
        architecture: str = DEFAULT_ARCHITECTURE,
        domain: Domain | None = None,
        micro_batch: int | None = None,
        redshift_range: tuple[float, float] | None = None,
        basis: str | None = None,
        density_sha256: str | None = None,
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
            redshift_range=redshift_range,
            basis=basis,
            density_sha256=density_sha256,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the model as JSON-ready values; what says how redshifts are found, and the density, where they are."""
        values = {**dataclasses.asdict(self), "variables": list(self.variables)}
        of_redshift = {key: values.pop(key) for key in ("redshift", "redshift_window", "redshift_range", "basis")}
        of_density = {key: values.pop(key) for key in ("density", "density_sha256")}
        found = {**values, **of_redshift} if self.needs_basis else values
        return found if self.density is None else {**found, **of_density}

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


def _require_window(method: str, window: object) -> None:
    if window is None:
        return
    if method != REFINE:
        remedy = "leave it out, or plan with --redshift refine"
        raise ConfigError("model.redshift_window", window, "nothing, for redshift is not refined", remedy)
    if isinstance(window, bool) or not isinstance(window, int | float) or not 100 <= window <= 100_000:
        raise ConfigError("model.redshift_window", window, "100 to 100000 km/s")


def _range(values: object) -> tuple[float, float]:
    """Return a range of redshifts as it is read from a plan. Raises ConfigError."""
    if isinstance(values, list | tuple) and len(values) == 2 and all(isinstance(each, int | float) for each in values):
        low, high = float(values[0]), float(values[1])
        if -1 < low < high < float("inf"):
            return low, high
    raise ConfigError("model.redshift_range", values, "two redshifts, the lower one first")
