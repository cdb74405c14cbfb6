"""Several adapters at once: their changes of the weights are added, not their factors."""

from pathlib import Path
from types import SimpleNamespace

import torch

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Linear
from t2ilab.core.prediction import Velocity
from t2ilab.export.several import Blend
from t2ilab.models.injection import adapter_state, inject, merge
from tests.models.test_adapters import KINDS, dit

NAME, SCALE = "blocks.0.attention.qkv", 3.0  # alpha / rank


def opened(seed):
    """An adapter as an export of it opens, with factors of its own, and B A."""
    network = dit()
    inject(network, KINDS["lora"])
    with torch.no_grad():
        torch.manual_seed(seed)
        for p in network.parameters():
            if p.requires_grad:
                p.copy_(torch.randn_like(p))
    state = adapter_state(network)
    factors = [state[f"{NAME}.lora_{part}.weight"].clone() for part in "BA"]
    whole = Denoiser(merge(network), Linear(), Velocity())
    base = SimpleNamespace(merged=lambda *_: Denoiser(dit(), Linear(), Velocity()))
    return SimpleNamespace(base=base, merged=lambda *_: whole, manifest={}), factors


def test_the_changes_of_several_adapters_are_added_and_not_their_factors():
    (one, (b1, a1)), (two, (b2, a2)) = opened(1), opened(2)
    blend = Blend(Path(), {}, {"conditioner": {}}, (one, two), (0.3, 0.7))
    change = blend.denoiser().backbone.get_parameter(f"{NAME}.weight") - dit().get_parameter(f"{NAME}.weight")
    torch.testing.assert_close(change, SCALE * (0.3 * b1 @ a1 + 0.7 * b2 @ a2), rtol=1e-4, atol=1e-4)
    averaged = SCALE * (0.3 * b1 + 0.7 * b2) @ (0.3 * a1 + 0.7 * a2)
    assert (change - averaged).abs().max() > 1
