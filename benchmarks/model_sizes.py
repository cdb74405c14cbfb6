"""Parameters and multiply-accumulates of the large models: python benchmarks/model_sizes.py [PRESET ...]

At 256 px, with latents of 16 x 32 x 32, 120 text tokens of 4096 and a pooled vector of 2048 for those that read one.
Nothing is computed or stored: networks and inputs are shapes only. Prints a table.
"""

from __future__ import annotations

import sys

import torch

from t2ilab.build import build
from t2ilab.config import composition
from t2ilab.core.types import Condition
from t2ilab.models import count

PRESETS = (
    *("dit_s", "dit_b", "dit_l", "dit_xl", "mmdit_s", "mmdit_b", "mmdit_sd3", "pixart_s", "pixart_xl"),
    *("single_lumina2", "unet_s", "unet_sd15"),
)
CHANNELS, EDGE, TOKENS, TEXT, POOLED = 16, 32, 120, 4096, 2048


def size(name: str) -> tuple[int, float]:
    """Parameters, and 10^9 multiply-accumulates for one image."""
    config = composition.checked([f"model={name}"])["model"]
    config |= {"in_channels": CHANNELS, "input_size": EDGE, "text_dim": TEXT}
    if config["pooled_dim"] is not None:
        config["pooled_dim"] = POOLED
    with torch.device("meta"):
        network = build(config)
        cond = Condition(
            torch.zeros(1, TOKENS, TEXT),
            torch.ones(1, TOKENS, dtype=torch.bool),
            None if config["pooled_dim"] is None else torch.zeros(1, POOLED),
        )
        x = torch.zeros(1, CHANNELS, EDGE, EDGE)
        return count.parameters(network), count.gmac(lambda: network(x, torch.zeros(1), cond))


def main(names: list[str]) -> None:
    print("| preset | parameters | GMAC per image |\n|---|---|---|")
    for name in names:
        parameters, cost = size(name)
        print(f"| `{name}` | {parameters:,} | {cost:.1f} |")


if __name__ == "__main__":
    main(sys.argv[1:] or list(PRESETS))
