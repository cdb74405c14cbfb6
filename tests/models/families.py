"""Every kind of network in a small form, and inputs that all of them take."""

import torch

from t2ilab.core.types import Condition
from t2ilab.models.dit import DiT
from t2ilab.models.mmdit import MMDiT
from t2ilab.models.pixart import PixArt
from t2ilab.models.single_stream import SingleStream
from t2ilab.models.unet import UNet

TRANSFORMER = {"in_channels": 4, "input_size": 8, "patch_size": 2, "width": 32, "depth": 4, "heads": 4}
SINGLE = {"kv_heads": 2, "text_refiners": 1, "image_refiners": 1, "mlp_ratio": 2.0, "rope_theta": 100.0}
UNET = {"in_channels": 4, "input_size": 8, "widths": [16, 32], "layers": 1, "attention": [False, True]}
TEXT = {"text_dim": 12, "pooled_dim": 6}
FAMILIES = {
    "dit joint": (DiT, {**TRANSFORMER, "context": "joint"}),
    "dit kv": (DiT, {**TRANSFORMER, "context": "kv", "skips": True, "qk_norm": True}),
    "dit cross": (DiT, {**TRANSFORMER, "context": "cross"}),
    "dit joint rope": (DiT, {**TRANSFORMER, "context": "joint", "positions": "rope"}),
    "dit kv rope": (DiT, {**TRANSFORMER, "context": "kv", "positions": "rope", "overlap": 1}),
    "dit cross rope": (DiT, {**TRANSFORMER, "context": "cross", "positions": "rope"}),
    "mmdit": (MMDiT, TRANSFORMER),
    "mmdit sd3": (
        MMDiT,
        {**TRANSFORMER, "norm_text": False, "qk_norm": True, "position_max": 8, "position_base": 4},
    ),
    "mmdit rope": (MMDiT, {**TRANSFORMER, "positions": "rope", "overlap": 1}),
    "pixart": (PixArt, TRANSFORMER),
    "single": (SingleStream, {**TRANSFORMER, **SINGLE, "overlap": 2}),
    "unet": (UNet, {**UNET, "head_dim": 8, "groups": 8}),
}
TRANSFORMERS = [name for name in FAMILIES if name != "unet"]


def small(name, **options):
    """A new network."""
    torch.manual_seed(0)
    make, sizes = FAMILIES[name]
    return make(**{**sizes, **TEXT, **options})


def trained(name, **options):
    """A network whose zero layers have been filled, as after training."""
    network = small(name, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def condition(rows=2, length=5):
    """Texts of different lengths."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(length) < torch.tensor([3, 5, 1, 4])[:rows, None]
    tokens = torch.randn(rows, length, 12, generator=generator)
    return Condition(tokens, mask, torch.randn(rows, 6, generator=generator))


def noisy(rows=2, shape=(8, 8)):
    """Latents and times."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(rows, 4, *shape, generator=generator)
    return x, torch.tensor([900.0, 30.0, 500.0, 1.0])[:rows]
