"""Stand-ins with the minimal interface of the parts that evaluation meets."""

from dataclasses import dataclass, field

import numpy as np
import torch

from t2ilab.core.rng import RowRng
from t2ilab.eval.result import TASKS

COLORS = {"red": (220, 30, 30), "green": (30, 170, 60), "blue": (40, 70, 230), "yellow": (250, 220, 30)}


@dataclass(frozen=True)
class Thing:
    color: str
    shape: str


@dataclass(frozen=True)
class Judgement:
    objects: list[Thing] = field(default_factory=list)


@dataclass(frozen=True)
class ColorPrompt:
    """Passes where the judge saw the asked colour."""

    text: str
    task: str
    color: str

    def passed(self, judgement):
        return [thing.color for thing in judgement.objects] == [self.color]


class ColorWorld:
    """Images of one colour; the judge names the nearest one."""

    def __init__(self):
        self.batches = []

    def judge_batch(self, images):
        self.batches.append(len(images))
        means = images.double().mean((2, 3))
        table = torch.tensor(list(COLORS.values()), dtype=torch.float64)
        names = [list(COLORS)[k] for k in torch.cdist(means, table).argmin(1)]
        return [Judgement([Thing(name, "square")]) for name in names]

    def prompts(self, split, per_task, seed):
        colors = list(COLORS)
        return [
            ColorPrompt(
                f"{split} {task} {k}: a {colors[(k + seed) % 4]} square", task, colors[(k + seed) % 4]
            )
            for task in TASKS
            for k in range(per_task)
        ]


class MeanFeatures:
    """d = 6: mean and spread of each channel; a text has those of its colour."""

    digest = "mean-0"

    def images(self, images):
        flat = images.float().flatten(2) / 255
        return torch.cat([flat.mean(2), flat.std(2)], dim=1)

    def texts(self, texts):
        table = [next((COLORS[c] for c in COLORS if c in text), (128, 128, 128)) for text in texts]
        return torch.nn.functional.pad(torch.tensor(table, dtype=torch.float32) / 255, (0, 3))


def painter(share=1.0, seed=0, size=8, total=100_000):
    """A sample_fn that paints the asked colour with probability `share`, by row number alone."""

    def sample_fn(prompts, rows):
        rng = RowRng(seed, 0, rows, total)
        right = rng.uniform("right") < share
        noise = 12 * rng.normal("noise", 3, size, size)
        table = []
        for prompt, good in zip(prompts, right.tolist(), strict=True):
            asked = next((c for c in COLORS if c in prompt), "red")
            wrong = list(COLORS)[(list(COLORS).index(asked) + 1) % 4]
            table.append(COLORS[asked if good else wrong])
        base = torch.tensor(table, dtype=torch.float32)[:, :, None, None]
        return (base + noise).clamp(0, 255).round().to(torch.uint8)

    return sample_fn


def gaussian(n, d, mean=0.0, std=1.0, seed=0):
    """(n, d) float64 samples."""
    return torch.from_numpy(np.random.default_rng(seed).normal(mean, std, (n, d)))
