import pytest
import torch

from t2ilab.core import precision
from t2ilab.core.precision import as_exported, autocast, has_bf16, resolved

CPU = torch.device("cpu")


@pytest.fixture
def hardware(monkeypatch):
    """Sets which instructions the processor claims to have."""

    def have(*flags):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(flags, True))
        has_bf16.cache_clear()

    yield have
    has_bf16.cache_clear()


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [((), "fp32"), (("avx2", "avx512_f"), "fp32"), (("avx512_bf16",), "bf16"), (("amx_bf16",), "bf16")],
)
def test_auto_is_bf16_only_where_the_processor_multiplies_it(hardware, flags, chosen):
    hardware(*flags)
    assert resolved("auto", CPU) == chosen


def test_a_precision_that_was_asked_for_is_kept(hardware):
    hardware()
    assert [resolved(name, CPU) for name in ("bf16", "fp32")] == ["bf16", "fp32"]


def test_an_export_in_bf16_runs_in_fp32_where_bf16_is_emulated(hardware):
    hardware()
    assert as_exported("bf16", CPU) == "fp32"
    hardware("avx512_bf16")
    assert [as_exported(name, CPU) for name in ("bf16", "fp32")] == ["bf16", "fp32"]


def test_an_unknown_device_runs_in_fp32():
    assert not precision.has_bf16("meta")


def test_autocast_casts_products_for_bf16_only():
    a = torch.ones(2, 2)
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with autocast(CPU, name):
            assert (a @ a).dtype == dtype
