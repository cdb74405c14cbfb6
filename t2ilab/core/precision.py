"""Which arithmetic the networks run in: bf16 autocast where the hardware multiplies bf16, float32 elsewhere.

A processor without bf16 instructions computes the same numbers by emulation, about a hundred times slower than
float32, so `auto` asks the hardware and never emulates.
"""

from __future__ import annotations

from functools import lru_cache

import torch

PRECISIONS = ("auto", "bf16", "fp32")


@lru_cache
def has_bf16(device_type: str) -> bool:
    """Whether devices of this type (`cpu`, `cuda`) have instructions for products of bf16 matrices."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        flags = torch.cpu.get_capabilities()
        return any(flags.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def resolved(precision: str, device: torch.device) -> str:
    """`bf16` or `fp32`: what was asked for, and for `auto` what is fast on this device."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(device.type) else "fp32"


def as_exported(precision: str, device: torch.device) -> str:
    """The precision a model was exported with, or fp32, which is closer still, where bf16 would be emulated."""
    return precision if has_bf16(device.type) else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which networks run: bf16 autocast for `bf16`, as they are for `fp32`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
