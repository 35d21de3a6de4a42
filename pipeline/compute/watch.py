"""Look at a cluster now and then, and say when no worker is there to do the work."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import CancelledError

from distributed import Client

from pipeline.compute.scheduler import Workers, offering, workers_of
from pipeline.planning.plan import Kind

LOOK = 10.0
"""Seconds after which a cluster's workers are looked at again."""

SILENCE = 30.0
"""Seconds without a sign of life after which a worker counts as not there: they give one every half second, in large
clusters as many hundredths of a second as there are workers."""

_ADVICE = "Ctrl-C stops the run; the same command resumes it"


class Watch:
    """Says once when no worker of a cluster can do what is left, and once when one can again.

    place: names the resource that workers must offer to do a kind of task, None where any may. say: shows a line.
    """

    def __init__(
        self,
        client: Client,
        place: Callable[[Kind], str | None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._place = place
        self._say = say
        self._clock = clock
        self._shown = ""
        self._looked = clock()
        # when each worker was heard of last: by the scheduler's clock, and by ours when that was news
        self._heard: dict[str, tuple[float, float]] = {}

    @property
    def due(self) -> bool:
        """Whether the last look was LOOK seconds ago."""
        return self._clock() - self._looked >= LOOK

    def look(self, kinds: set[Kind]) -> None:
        """Look who could do tasks of these kinds. Raises ConnectionError when the scheduler is lost."""
        self._looked = self._clock()
        missing = self._missing(kinds)
        if missing and missing != self._shown:
            self._say(f"waiting: {missing}")
        elif self._shown and not missing:
            self._say("continuing: workers are available again")
        self._shown = missing

    def _missing(self, kinds: set[Kind]) -> str:
        if self._client.status != "running":
            raise lost(self._client)
        try:
            workers = workers_of(self._client)
        except TimeoutError:
            return "the scheduler does not answer"
        except (OSError, CancelledError) as error:
            raise lost(self._client) from error
        if not workers:
            return f"the scheduler has no workers; {_ADVICE}"
        silent = self._silent(workers)
        for kind in sorted(kinds, key=str):
            place = self._place(kind)
            able = set(offering(workers, place) if place else workers)
            if not able:
                return f"none of the workers offers the resource {place}, needed to {kind[0]}; Ctrl-C stops the run"
            idle = {address for address in able if workers[address]["status"] != "running"}
            if able <= silent:
                return f"no worker that can {kind[0]} has answered for {SILENCE:.0f} s; {_ADVICE}"
            if able <= silent | idle:
                states = ", ".join(sorted({workers[address]["status"] for address in idle}))
                why = f"{states}: short of memory, or shutting down"
                return f"no worker that can {kind[0]} accepts tasks ({why}); {_ADVICE}"
        return ""

    def _silent(self, workers: Workers) -> set[str]:
        """Give those whose last sign of life has been the same for long; clocks of two machines are not compared."""
        now = self._clock()
        for address, info in workers.items():
            if address not in self._heard or self._heard[address][0] != info["last_seen"]:
                self._heard[address] = info["last_seen"], now
        return {address for address in workers if now - self._heard[address][1] >= SILENCE}


def lost(client: Client) -> ConnectionError:
    """Say that a client's scheduler is gone."""
    address = client.scheduler.address if client.scheduler is not None else "of the run"
    return ConnectionError(
        f"the Dask scheduler {address} is gone; finished chunks are kept:"
        " run the same command again with a new scheduler"
    )
