"""How right a reward is on what a model draws, as far as the synthetic data set knows the truth."""

from __future__ import annotations

import torch
from torch import Tensor

from t2ilab.data.scenes import Preferences
from t2ilab.data.scenes.preferences import odds_of
from t2ilab.eval.result import Metric
from t2ilab.eval.reward_probes import expected_accuracy
from t2ilab.export.denoiser import load
from t2ilab.export.reader import open_export
from t2ilab.measuring.held_out import UTILITY
from t2ilab.rewards.judge import Judge
from t2ilab.rewards.model import RewardModel
from t2ilab.training.latent_rows import module_device

NAMES = ("accuracy@samples", "best_accuracy@samples")
STREAM = "reward samples"  # of the noise: no image is one that an evaluation or stage=pairs draws


def check_samples(path: str | None) -> None:
    """Refuses a folder that holds no model that can be drawn with, before anything is trained.

    Raises:
        ValueError: naming stage.samples_from.
    """
    if not path:
        return
    try:
        open_export(path)
    except ValueError as error:
        raise ValueError(str(error).replace(f"init_from={path}", f"stage.samples_from={path}")) from error


@torch.no_grad()
def on_samples(
    model: RewardModel, path: str, source: Preferences, *, prompts: int, images: int, seed: int
) -> dict[str, Metric]:
    """`reward/accuracy@samples` on a model's images, and `reward/best_accuracy@samples`, the most that is possible.

    Preferences are those of the built-in pairs, by the utility u = 2 [passed] + 2 share + 2 quality that the judge
    reads off. Both numbers are expectations over them.

    Args:
        path: run or export folder of the model.
        source: held-out comparisons, whose prompts are drawn; prompts: how many; images: of each.
        seed: of the noise.
    """
    texts = source.prompts(range(min(prompts, len(source))))
    several = [text for text in texts for _ in range(images)]
    device = module_device(model)
    generate = load(path, device=device).generate.with_(stream=STREAM)
    judge, scores, utilities = Judge(**UTILITY), list[Tensor](), list[Tensor]()
    batches = generate.batches(several, seed=seed)
    for start, drawn in zip(range(0, len(several), generate.batch_size), batches, strict=True):
        own = several[start : start + len(drawn)]
        seen = drawn.float() / 255
        ids = model.towers.tokens(own).to(device)
        scores.append(model(seen[:, None].to(device), ids)[:, 0].cpu())
        utilities.append(judge(seen, own))
    odds = odds_of(torch.cat(utilities).view(-1, images), source.ties)
    return expected_accuracy(torch.cat(scores).view(-1, images), odds, NAMES)
