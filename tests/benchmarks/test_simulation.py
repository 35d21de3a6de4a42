"""The simulation of a run, in cases that can be worked out by hand; `simulate.py` compares it with real runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import simpy
from simulation import Constants, Cores, Machine, Run

PLAIN = Constants(
    ingest=1e-3,
    encode=4e-3,
    around=0.0,
    gpu=1e-4,
    task=0.0,
    latency=0.0,
    spectrum=1.0,
    encoding=1.0,
    crowded=1.0,
    beside=1.0,
)
ONE = Machine(cores=1, workers=1, threads=1)


def seconds(machine: Machine, constants: Constants = PLAIN, spectra: int = 1024, chunk: int = 128) -> float:
    return Run(machine, constants, spectra, chunk).seconds()


def test_one_core_takes_the_sum_of_all_work() -> None:
    assert seconds(ONE) == pytest.approx(1024 * 5e-3)
    assert seconds(replace(ONE, threads=2)) == pytest.approx(1024 * 5e-3)
    assert seconds(ONE, replace(PLAIN, task=0.01)) == pytest.approx(1024 * 5e-3 + 16 * 0.01)


def test_two_cores_take_half_as_long_and_longer_where_they_disturb_each_other() -> None:
    two = Machine(cores=2, workers=2, threads=2)
    assert seconds(two) == pytest.approx(1024 * 5e-3 / 2, rel=0.02)
    encodes = replace(PLAIN, ingest=0.0)
    assert seconds(two, replace(encodes, crowded=1.5)) == pytest.approx(1.5 * seconds(two, encodes), rel=0.02)
    assert seconds(ONE, replace(PLAIN, crowded=1.5)) == seconds(ONE)


def test_an_archive_that_gives_less_decides() -> None:
    slow = Machine(cores=2, workers=2, files=100.0)
    assert seconds(slow) == pytest.approx(10.24, rel=0.1)  # and the last chunk's encoding
    far = replace(PLAIN, ingest=0.0, encode=0.0, latency=0.5)
    assert seconds(Machine(cores=1, workers=1, threads=1, in_flight=64), far) == pytest.approx(16 * 0.5, rel=0.05)
    assert seconds(Machine(cores=1, workers=1, threads=4, slots=4), far) == pytest.approx(4 * 0.5, rel=0.05)


def test_computing_takes_longer_beside_files_that_are_prepared() -> None:
    machine = Machine(cores=2, workers=1, threads=2)
    # Ingests last until 4.1 s; computing begins after the first, and takes 1.5 times as long until then.
    ingests, first, work = 1024 * 4e-3, 128 * 4e-3, 1024 * 4e-3
    expected = ingests + work - (ingests - first) / 1.5
    assert seconds(machine, replace(PLAIN, ingest=4e-3, beside=1.5)) == pytest.approx(expected, rel=0.02)
    assert seconds(ONE, replace(PLAIN, beside=1.5)) == seconds(ONE)


def test_a_limit_is_divided_among_the_ingests_at_once() -> None:
    light = replace(PLAIN, ingest=0.0, encode=0.0)
    machine = Machine(cores=4, workers=1, threads=2, limit=200.0, slots=4)
    assert seconds(machine, light) == pytest.approx(1024 / 100, rel=0.01)
    assert seconds(replace(machine, threads=8), light) == pytest.approx(1024 / 200, rel=0.01)


def test_a_bucket_that_takes_less_decides() -> None:
    assert seconds(replace(ONE, bytes=100.0)) == pytest.approx(1024 * 5e-3 + 3 * 1024 / 100, rel=0.01)


def test_gpus_take_encodings_and_report_what_they_were_busy_for() -> None:
    run = Run(Machine(cores=4, workers=2, gpus=1, threads=2), PLAIN, 1024, 128)
    assert run.seconds() == pytest.approx(1024 * 1e-3 / 2, rel=0.1)
    assert run.busy == pytest.approx(1024 * 1e-4)


def test_a_core_of_a_gpu_worker_does_what_is_around_the_model() -> None:
    machine = Machine(cores=4, workers=2, gpus=1, threads=1)
    around = replace(PLAIN, ingest=0.0, around=2e-3)
    assert seconds(machine, around) == pytest.approx(1024 * 2.1e-3)
    assert seconds(replace(machine, threads=3), around, 9 * 128) == pytest.approx(9 * 128 * 2.1e-3 / 3, rel=0.1)


def test_workers_that_are_taken_away_lose_time_and_no_chunk() -> None:
    machine = Machine(cores=2, workers=2, lifetime=3.0, back=1.0)
    run = Run(machine, PLAIN, 4096, 128)
    taken = run.seconds(seed=1)
    assert run.left == 0
    assert taken > 1.2 * seconds(replace(machine, lifetime=float("inf")), spectra=4096)
    assert Run(machine, PLAIN, 4096, 128).seconds(seed=1) == taken


def test_a_worker_that_is_taken_away_computes_no_more() -> None:
    env = simpy.Environment()
    cores = Cores(env, count=1)
    gone, stays = cores.work(10.0), cores.work(2.0)
    env.run(1.0)
    cores.withdraw(gone)
    env.run(stays)
    assert env.now == pytest.approx(2.5)


def test_cores_are_shared_equally() -> None:
    env = simpy.Environment()
    cores = Cores(env, count=1)
    ended: dict[str, float] = {}

    def works(name: str, begin: float, work: float) -> simpy.events.ProcessGenerator:
        yield env.timeout(begin)
        yield cores.work(work)
        ended[name] = env.now

    env.process(works("long", 0.0, 3.0))
    env.process(works("short", 1.0, 1.0))
    env.run()
    assert ended == {"short": pytest.approx(3.0), "long": pytest.approx(4.0)}
