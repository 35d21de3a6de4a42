"""Ask a Dask scheduler and its workers, with a limit: one that is stopped would be waited for without a word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from distributed import Client, WorkerPlugin

logger = logging.getLogger(__name__)

ANSWER = 30.0
"""Seconds to wait for a scheduler, or for workers through it."""

Workers = dict[str, Any]
"""A scheduler's workers: the facts that it knows of each, by address."""


def workers_of(client: Client) -> Workers:
    """Ask for the workers. Raises TimeoutError when there is no answer, OSError when the scheduler is lost."""
    # Not `client.scheduler_info`, which waits for ever.
    identity: Mapping[str, Any] = _asked(client, _identity, client)
    workers: Workers = identity["workers"]
    return workers


def offering(workers: Workers, resource: str) -> list[str]:
    """Give the addresses of the workers that offer a resource, "GPU" or "CPU"."""
    return [address for address, info in workers.items() if resource in info.get("resources", {})]


def on_scheduler(client: Client, function: Callable[..., object], *arguments: object) -> None:
    """Run a function in the scheduler's process. Raises what it raises, and TimeoutError."""
    _asked(client, client._run_on_scheduler, function, *arguments)


def on_workers(client: Client, function: Callable[[], Any], workers: Collection[str], limit: float) -> dict[str, Any]:
    """Run a function on some workers; gives the results by address, of those that answer within so many seconds.

    Raises what the function raises.
    """

    async def ask(address: str) -> dict[str, Any]:
        try:
            return await asyncio.wait_for(client._run(function, workers=[address]), limit)
        except TimeoutError:
            logger.warning("worker %s has not answered for %.0f s", address, limit)
            return {}

    async def ask_all() -> list[dict[str, Any]]:
        return await asyncio.gather(*map(ask, workers))

    answers: list[dict[str, Any]] = client.sync(ask_all)  # type: ignore[no-untyped-call]
    return {address: answer for each in answers for address, answer in each.items()}


def _asked(client: Client, function: Callable[..., Awaitable[Any]], *arguments: object) -> Any:  # noqa: ANN401 - Dask's
    try:
        return client.sync(function, *arguments, callback_timeout=ANSWER)  # type: ignore[no-untyped-call]
    except TimeoutError as error:
        address = client.scheduler.address if client.scheduler is not None else "of the run"
        raise TimeoutError(
            f"the Dask scheduler {address}, or one of its workers, has not answered for {ANSWER:.0f} s:"
            " check that it runs, then start the same command again"
        ) from error


async def _identity(client: Client) -> Mapping[str, Any]:
    identity: Mapping[str, Any] = await client.scheduler.identity(n_workers=-1)  # type: ignore[union-attr]
    return identity


def give_to_workers(client: Client, plugin: WorkerPlugin, name: str) -> None:
    """Have all workers, there or to come, set up a plugin. Raises OSError when the scheduler is lost."""
    try:
        _asked(client, client._register_worker_plugin, plugin, name, False)
    except TimeoutError:
        # A worker that is stopped does not answer; the others have it, and the scheduler gives it to those that come.
        logger.warning("not all workers have answered for %.0f s", ANSWER)
    except OSError:
        raise
    except Exception as error:  # whatever one worker raises, the others have it
        logger.warning("a worker could not set up %s: %s: %s", name, type(error).__name__, error)


def events_of(client: Client, topic: str) -> list[dict[str, Any]]:
    """Return what workers have reported under a topic, the oldest first. Raises TimeoutError, OSError."""
    return [message for _, message in _asked(client, _events, client, topic)]


async def _events(client: Client, topic: str) -> Sequence[tuple[float, dict[str, Any]]]:
    found: Sequence[tuple[float, dict[str, Any]]] = await client.scheduler.events(topic=topic)  # type: ignore[union-attr]
    return found
