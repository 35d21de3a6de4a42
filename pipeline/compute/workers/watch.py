"""Look at a cluster now and then, and say when no worker is there to do the work."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import CancelledError

from distributed import Client

from pipeline.compute.workers.admission import Admission
from pipeline.compute.workers.scheduler import Workers, offering, workers_of
from pipeline.errors import ConfigError, RefusedError
from pipeline.planning.stages import Kind

LOOK = 10.0
"""Seconds after which a cluster's workers are looked at again."""

MINUTE = 60.0
"""Seconds after which a run that still waits says so again."""

ALONE = 15.0
"""Seconds that workers which cannot do any work wait for others that can, where none has come before."""

SILENCE = 30.0
"""Seconds without a sign of life after which a worker counts as not there: they give one every half second, in large
clusters as many hundredths of a second as there are workers."""

_ADVICE = "Ctrl-C stops the run; the same command resumes it"


class Watch:
    """Says when no worker of a cluster can do what is left, each minute, and once when one can again.

    admission: of the workers to the work. say: shows a line. wait: seconds for the first worker that can do any of it;
    None: no limit, for a cluster that grows by itself.
    """

    def __init__(
        self,
        client: Client,
        admission: Admission,
        say: Callable[[str], None],
        wait: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._admission = admission
        self._say = say
        self._wait = wait
        self._clock = clock
        self._shown = ""
        self._started = self._looked = self._shown_at = clock()
        self._none_fit_since = self._started
        self._has_worked = False
        # when each worker was heard of last: by the scheduler's clock, and by ours when that was news
        self._heard: dict[str, tuple[float, float]] = {}

    @property
    def due(self) -> bool:
        """Whether the last look was LOOK seconds ago."""
        return self._clock() - self._looked >= LOOK

    def note_end(self) -> None:
        """Note that a task has ended: there were workers, and if they are lost, others are waited for."""
        self._has_worked = True

    def look(self, kinds: set[Kind]) -> bool:
        """Look who could do tasks of these kinds. Returns whether they are to be placed again, for other workers.

        Raises ConnectionError when the scheduler is lost, and ConfigError where no worker has come that can do any of
        them: within the time to wait, or because those that came cannot.
        """
        self._looked = self._clock()
        if self._client.status != "running":
            raise lost(self._client)
        try:
            workers = workers_of(self._client)
            denied = self._admission.look(workers)
            is_placed = not self._admission.has_changed(workers)
        except TimeoutError:
            self._show("the scheduler does not answer")
            return False
        except (OSError, CancelledError) as error:
            raise lost(self._client) from error
        missing = self._missing(kinds, workers)
        self._has_worked |= len(missing) < len(kinds)
        if not self._has_worked:
            self._refuse(workers, missing)
        for each in denied:
            self._say(f"not used: {each}; {each.remedy}")
        self._show(next(iter(missing.values()), ""))
        return not is_placed

    def _show(self, missing: str) -> None:
        """Say what is missing where that is news, and each minute; or that nothing is any more."""
        now = self._clock()
        if missing and (missing != self._shown or now - self._shown_at >= MINUTE):
            self._shown_at = now
            self._say(f"waiting: {missing}")
        elif self._shown and not missing:
            self._say("continuing: workers are available")
        self._shown = missing

    def _refuse(self, workers: Workers, missing: dict[Kind, str]) -> None:
        """Raise ConfigError where nothing can be done, and nothing has been, for too long."""
        denied = [self._admission.denied[address] for address in workers if address in self._admission.denied]
        if not denied or len(denied) < len(workers):
            self._none_fit_since = self._clock()
        elif self._clock() - self._none_fit_since >= ALONE:
            raise RefusedError("workers", str(denied[0]), denied[0].remedy)
        if self._wait is None or self._clock() - self._started <= self._wait:
            return
        address = self._client.scheduler.address if self._client.scheduler is not None else ""
        if not workers:
            expected = f"a scheduler that has workers ({self._wait:.0f} s waited)"
            raise ConfigError("--scheduler", address, expected, f"start some with: dask worker {address} --nthreads 2")
        for (stage, _), reason in missing.items():
            expected = f"a scheduler with workers that can {stage} ({self._wait:.0f} s waited)"
            raise ConfigError("--scheduler", address, expected, reason.removesuffix(f"; {_ADVICE}"))

    def _missing(self, kinds: set[Kind], workers: Workers) -> dict[Kind, str]:
        """Say by kind why no worker can do its tasks."""
        found: dict[Kind, str] = {}
        silent = self._silent(workers)
        for kind in sorted(kinds, key=str):
            if not workers:
                found[kind] = f"the scheduler has no workers; {_ADVICE}"
                continue
            place = self._admission.place(kind)
            able = set(offering(workers, place) if place else workers)
            idle = {address for address in able if workers[address]["status"] != "running"}
            if not able:
                found[kind] = f"{self._admission.missing(kind, workers)}; Ctrl-C stops the run"
            elif able <= silent:
                found[kind] = f"no worker that can {kind[0]} has answered for {SILENCE:.0f} s; {_ADVICE}"
            elif able <= silent | idle:
                states = ", ".join(sorted({workers[address]["status"] for address in idle}))
                why = f"{states}: short of memory, or shutting down"
                found[kind] = f"no worker that can {kind[0]} accepts tasks ({why}); {_ADVICE}"
        return found

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
