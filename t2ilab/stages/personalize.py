"""`stage=personalize`: teaches a finished model one subject from a few images (DreamBooth).

The subject gets a rare word in front of its class, `a zwx dog`; images of the class, drawn by the model as it
starts, keep the rest. The loss is objectives/dreambooth.py; all weights train, or those of an adapter.
Source: Ruiz et al. 2022, arXiv 2208.12242.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from t2ilab.build import build
from t2ilab.core.folders import expanded
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.data.personal import data_node, prompt_of
from t2ilab.data.scenes.grammar import SUBJECT_WORD
from t2ilab.data.scenes.world import TEDDY
from t2ilab.objectives.dreambooth import PRIOR, SHARE
from t2ilab.stages.assembly import assemble, train
from t2ilab.stages.carries import captions
from t2ilab.stages.class_images import class_images
from t2ilab.stages.faults import is_a
from t2ilab.stages.job import Job
from t2ilab.stages.pretrain import Pretrain, learner
from t2ilab.stages.start import Start
from t2ilab.text.rare import rare_word

FOLDER = "class_images"


class Personalize(Pretrain):
    """A denoiser learns a subject; rows from `first_of_class` on are of its class.

    Attributes:
        first_of_class: number of the first such row; None if there are none.
        share: of the class's rows in a batch.
    """

    first_of_class: int | None = None
    share: float = 0.0

    def to_batch(self, rows: dict[str, Any], rng: RowRng) -> Batch:
        batch = super().to_batch(rows, rng)
        if self.first_of_class is None:
            return batch
        prior = rows["index"].to(batch.x0.device) >= self.first_of_class
        share = torch.where(prior, self.share, 1 - self.share)
        return Batch(batch.x0, batch.condition, batch.null, {**batch.extras, PRIOR: prior, SHARE: share})


def run(config: dict[str, Any]) -> float | None:
    """Personalises the model of init_from; returns judge/overall (or minus the held-out loss without a judge)."""
    start = Start.of(config)
    token, class_name = words_of(config, start)
    stage, named = config["stage"], config["stage"]["class_folder"]
    folder = Path(expanded(named or f"{config['run_dir']}/{FOLDER}")).resolve()
    prior = config["loss"].get("prior_weight", 0) > 0
    node = data_node(
        config["data"], token=token, class_name=class_name, class_folder=folder if prior else None
    )
    with Job.open(config | start.noted, inherited=start.parts(config) | {"data": node}) as job:
        if (value := job.finished()) is not None:
            return value
        if job.first:
            print(f"{stage['name']}: {prompt_of(f'{token} {class_name}')!r} is the subject", flush=True)
        if prior:
            class_images(job, start, folder, prompt_of(class_name), own=not named)
        parts = assemble(job, start.student, start)
        made = learner(job, parts, Personalize)
        if prior:
            subject, others = parts.data.quotas.values()
            made.first_of_class = len(parts.data.sources()[0])
            made.share = others / (subject + others)
        return train(job, parts, made, start)


def words_of(config: dict[str, Any], start: Start) -> tuple[str, str]:
    """The rare word and the class of a run.

    Raises:
        ValueError: the word is not rare, saying why.
    """
    stage, scenes = config["stage"], is_a(config["data"], "t2ilab.data.sets.Scenes")
    token, class_name = stage["token"], stage["class_name"]
    if scenes:
        token, class_name = token or SUBJECT_WORD, class_name or TEDDY
    conditioner = build(start.opened.nodes["conditioner"])
    return rare_word(conditioner, old_captions(start), token), class_name


def old_captions(start: Start) -> list[str]:
    """Captions of the data that the model was trained on, as far as they are here."""
    try:
        return [] if start.data is None else captions(build(start.data).train)
    except (ValueError, OSError) as error:
        print(f"note: whether the word is rare in the data of init_from is not known: {error}", flush=True)
        return []
