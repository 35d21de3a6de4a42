from __future__ import annotations

import socket

import pytest
import torch
from torch import distributed

from pipeline.training.processes import joined, own_device


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def test_a_process_of_its_own_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with joined() as world:
        assert world.size == 1
        assert not distributed.is_initialized()


def test_processes_of_torchrun_are_joined_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "SPENDER_DEVICE": "cpu", **address}.items():
        monkeypatch.setenv(name, value)
    with joined() as world:
        assert (world.rank, world.size) == (0, 1)
        assert distributed.get_backend() == "gloo"
        with joined():
            pass
        assert distributed.is_initialized()  # who joined leaves
    assert not distributed.is_initialized()


def test_a_process_computes_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_DEVICE", "cpu")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device() == torch.device("cpu")
