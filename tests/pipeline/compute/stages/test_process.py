from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
import zarr

from pipeline.compute.stages import process as worker
from pipeline.planning.model import ModelConfig
from pipeline.store.checkpoint import inspect
from spender_core.precision import arithmetic
from spender_core.weights import WeightsError
from tests.running import random_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.getbasetemp())


def make_config(checkpoint: Path) -> ModelConfig:
    facts = inspect(str(checkpoint), "sdss")
    asked = ModelConfig(name="random", checkpoint=str(checkpoint), micro_batch=4)
    return asked.resolve(sha256=facts.sha256, n_latent=facts.n_latent, n_rest=len(facts.wave_rest))


def test_prepared_uses_one_thread_and_leaves_no_trace() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.backends.cudnn.benchmark = True
    try:
        with zarr.config.set({"codec_pipeline.batch_size": 1}):
            with worker.deterministic():
                assert torch.get_num_threads() == 1
                assert not torch.backends.cudnn.benchmark
                assert torch.backends.cudnn.deterministic
                assert zarr.config.get("codec_pipeline.batch_size") == 32
            assert zarr.config.get("codec_pipeline.batch_size") == 1
        assert torch.get_num_threads() == 2
        assert torch.backends.cudnn.benchmark
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = False


def test_a_task_that_begins_leaves_the_precision_of_one_that_computes() -> None:
    with arithmetic("tf32", torch.device("cpu")):
        thread = threading.Thread(target=worker.make_deterministic)
        thread.start()
        thread.join()
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32


def test_prepared_leaves_no_trace_of_work_that_failed() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError), worker.deterministic():
            _ = 1 / 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_model_is_loaded_once_per_process(checkpoint: Path) -> None:
    config = make_config(checkpoint)
    loaded = []
    threads = [threading.Thread(target=lambda: loaded.append(worker.load(config, "sdss"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(model) for model in loaded}) == 1
    assert not loaded[0].training


def test_a_checkpoint_that_has_changed_since_the_plan_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    copy = tmp_path / "model.pt"
    copy.write_bytes(checkpoint.read_bytes())
    planned = ModelConfig(name="m", checkpoint=str(copy), sha256="0" * 64, n_latent=4, n_rest=700, micro_batch=4)
    with pytest.raises(WeightsError, match="expected 0000"):
        worker.load(planned, "sdss")


def test_without_a_gpu_the_device_is_the_cpu() -> None:
    device = worker.device()
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert worker.device_name(torch.device("cpu")) == "cpu"
