"""Data of a run that cannot be decoded: said in words, with what brings them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ConfigError, RefusedError


@contextmanager
def damage_named(root: str) -> Iterator[None]:
    """Turn what decoders raise on damaged data, ValueError and RuntimeError, into a message with the remedy."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        remedy = f"spender-pipeline verify {root} names what; verify --repair, then run, brings it back"
        raise RefusedError("ROOT", f"data of {root} are damaged ({reason})", remedy) from error
