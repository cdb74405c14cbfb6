"""A reward that learns from comparisons: a CLIP, and what it makes of the vectors of an image and its prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.export.manifest import read_manifest, write_json
from t2ilab.rewards.base import Reward
from t2ilab.rewards.towers import open_towers

HEADS = ("cosine", "mlp")
CLIP, HEAD, CONFIG = "clip", "head.safetensors", "reward.json"


class RewardModel(nn.Module):
    """r(image, prompt), whose differences for one prompt are log odds of a preference.

    With unit vectors f of the image and g of the prompt the `cosine` head gives e^s f . g with a learned s
    (PickScore, HPS v2); the `mlp` head is a small network of (f, g, f g), which can also like images for themselves.

    Args:
        path: folder of the CLIP to start from, see `open_towers`.
        name: architecture of open_clip, if it is one of its.
        head: `cosine` or `mlp`.
        width: of the hidden layer of `mlp`.
        uncertain: whether the head also says the std of the score, see objectives/gaussian_ranking.py.
        layers: how many of the last blocks of both towers learn; None for all of both towers.
    """

    def __init__(
        self,
        *,
        path: str | None,
        name: str | None = None,
        head: str,
        width: int,
        uncertain: bool = False,
        layers: int | None = None,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"model.head must be one of {', '.join(HEADS)}, got {head}")
        if width < 1:
            raise ValueError(f"model.width must be at least 1, got {width}")
        if uncertain and head != "mlp":
            raise ValueError(f"model.uncertain=true needs model.head=mlp, got {head}")
        self.options = {"name": name, "head": head, "width": width, "uncertain": uncertain}
        self.uncertain = uncertain
        self.towers = open_towers(path, name, option="model.path").train()
        self.towers.train_last(layers)
        dim = self.towers.dim
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0))) if head == "cosine" else None
        self.mlp = None
        if head == "mlp":
            layers_of_head = nn.Linear(3 * dim, width), nn.GELU(), nn.Linear(width, 2 if uncertain else 1)
            self.mlp = nn.Sequential(nn.LayerNorm(3 * dim), *layers_of_head)

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """Scores (B, K) float32 of images (B, K, 3, h, w) in [0, 1] for prompts of token ids (B, L)."""
        return self._said(images, ids)[..., 0]

    def gaussian(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The scores and their stds, (B, K) each, of an uncertain model."""
        mean, log_std = self._said(images, ids).unbind(-1)
        return mean, log_std.clamp(-5, 5).exp()  # from 1/150 to 150 times the scale of the scores

    def _said(self, images: Tensor, ids: Tensor) -> Tensor:
        """What the head says, (B, K, 1 or 2) float32."""
        rows, number = images.shape[:2]
        seen = F.normalize(self.towers.images(images.flatten(0, 1)).float(), dim=-1).view(rows, number, -1)
        told = F.normalize(self.towers.texts(ids).float(), dim=-1)[:, None]
        if self.mlp is None:
            assert self.log_scale is not None
            return self.log_scale.exp() * (seen * told).sum(-1, keepdim=True)
        told = told.expand_as(seen)
        return self.mlp(math.sqrt(self.towers.dim) * torch.cat([seen, told, seen * told], -1)).float()

    def save(self, folder: Path, **facts: Any) -> None:
        """Writes the CLIP, the head and reward.json, which holds `facts` too."""
        from safetensors.torch import save_file

        self.towers.save(folder / CLIP)
        save_file(self._head(), folder / HEAD)
        write_json(folder / CONFIG, self.options | facts)

    @classmethod
    def load(cls, folder: Path) -> tuple[RewardModel, dict[str, Any]]:
        """What `save` wrote, in evaluation mode, and the facts."""
        from safetensors.torch import load_file

        facts = json.loads((folder / CONFIG).read_text())
        options = {name: facts.pop(name) for name in ("name", "head", "width")}
        options["uncertain"] = facts.pop("uncertain", False)  # which the first exports do not say
        model = cls(path=str(folder / CLIP), **options)
        head = load_file(folder / HEAD)
        if set(head) != set(model._head()):
            raise ValueError(
                f"reward.path={folder}: {HEAD} holds {sorted(head)}, wanted {sorted(model._head())}"
            )
        model.load_state_dict(head, strict=False)  # the towers are there already
        return model.eval(), facts

    def _head(self) -> dict[str, Tensor]:
        state = self.state_dict()
        return {k: v.detach().cpu().contiguous() for k, v in state.items() if not k.startswith("towers.")}


class Learned(Reward):
    """A reward that `stage=reward` made, standardised: its held-out scores have mean 0 and std 1.

    Args:
        path: run folder of stage=reward, or its export.
    """

    def __init__(self, *, path: str | None) -> None:
        super().__init__()
        if not path:
            raise ValueError("reward.path=<run of stage=reward> is needed")
        folder, self.manifest = read_manifest(path, kind="reward", option="reward.path")
        model, facts = RewardModel.load(folder)
        self.model = model.requires_grad_(False)
        self.mean, self.std = float(facts["mean"]), float(facts["std"])

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        ids = self.model.towers.tokens(prompts).to(images.device)
        return (self.model(images[:, None], ids)[:, 0] - self.mean) / self.std
