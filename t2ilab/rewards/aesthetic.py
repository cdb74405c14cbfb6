"""How good an image looks, whatever its prompt: a head on the unit vectors of a CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.features.vit import only_file
from t2ilab.rewards.base import Reward
from t2ilab.rewards.towers import Towers


class Aesthetic(Reward):
    """The LAION aesthetic predictor: linear maps one after the other, without activations, from a local file.

    Args:
        path: folder with the one file of the head, a state dict of weights and biases in their order
            (sac+logos+ava1-l14-linearMSE.pth is one).
        clip: makes the CLIP whose image vectors the head reads (OpenAI's ViT-L/14 for that file).
    Source: Schuhmann 2022, github.com/christophschuhmann/improved-aesthetic-predictor, whose layers have dropout and
    no activation between them.
    """

    def __init__(self, *, path: str | None, clip: Callable[[], Towers]) -> None:
        super().__init__()
        file = only_file(path, "reward.path")
        self.towers = clip().requires_grad_(False)
        self.head = linear_maps(read_state(file)).requires_grad_(False)
        wanted = self.head[0].in_features
        if wanted != self.towers.dim:
            raise ValueError(
                f"reward.path={path}: the head reads vectors of {wanted} numbers, the CLIP of reward.clip gives "
                f"{self.towers.dim}: name the CLIP that it was trained with"
            )

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.head(F.normalize(self.towers.images(images).float(), dim=1))[:, 0]


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, without running what is in it.

    Raises:
        ValueError: it is none.
    """
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of any content may come here
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"reward.path: {file} is no file of weights ({type(error).__name__}: {first})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"reward.path: {file} holds something else than tensors by their names")
    return state


def linear_maps(state: dict[str, Tensor]) -> nn.Sequential:
    """The linear maps of a state dict whose names come in pairs `x.weight`, `x.bias` or are `weight`, `bias`.

    Raises:
        ValueError: it holds something else, or the last map has more than one output.
    """
    names = [name for name in state if name.endswith("weight")]
    biases = [name.removesuffix("weight") + "bias" for name in names]
    if not names or set(state) != {*names, *biases} or any(state[name].ndim != 2 for name in names):
        raise ValueError(f"reward.path: wanted linear maps with biases, got {sorted(state)[:6]}")
    maps = []
    for name, bias in zip(names, biases, strict=True):
        one = nn.Linear(state[name].shape[1], state[name].shape[0])
        one.weight.data.copy_(state[name])
        one.bias.data.copy_(state[bias])
        maps.append(one)
    if maps[-1].out_features != 1:
        raise ValueError(f"reward.path: the head gives {maps[-1].out_features} numbers, wanted 1")
    return nn.Sequential(*maps)
