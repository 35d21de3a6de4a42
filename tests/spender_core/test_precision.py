from __future__ import annotations

import pytest
import torch

from spender_core.precision import arithmetic

CPU = torch.device("cpu")


def flags():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("float32", ("highest", False)), ("tf32", ("high", True)), ("bf16", ("highest", False))],
)
@pytest.mark.parametrize("before", [("highest", False), ("high", True)])
def test_tensor_cores_round_only_when_asked_and_settings_come_back(precision, expected, before):
    kept = flags()
    try:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        with arithmetic(precision, CPU):
            assert flags() == expected
            assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
        assert flags() == before
        assert not torch.is_autocast_enabled("cpu")
    finally:
        torch.set_float32_matmul_precision(kept[0])
        torch.backends.cudnn.allow_tf32 = kept[1]


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="'half', expected float32, tf32, bf16"), arithmetic("half", CPU):
        pass


def test_weights_that_changed_between_two_passes_are_those_computed_with():
    layer, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    seen = []
    with arithmetic("float32", CPU):
        for _ in range(2):
            with arithmetic("bf16", CPU):
                seen.append(layer(x).sum().item())
            with torch.no_grad():
                layer.weight.add_(1)
    assert seen[1] - seen[0] == pytest.approx(16, rel=1e-2)
