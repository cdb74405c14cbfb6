"""`stage=personalize`: teaches a finished model one subject from a few images.

The subject gets a rare word in front of its class, `a zwx dog`. DreamBooth trains the network, or an adapter of it,
and the text encoder if stage.text_lr is given; images of the class, drawn by the model as it starts, keep the rest.
Textual inversion trains vectors of the word alone; a run that starts from them goes on with them (pivotal tuning).
Sources: Ruiz et al. 2022, arXiv 2208.12242; Gal et al. 2022, arXiv 2208.01618; Roich et al. 2021, arXiv 2106.05744.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t2ilab.build import build
from t2ilab.core.folders import expanded
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch, Condition
from t2ilab.data.personal import data_node, prompt_of
from t2ilab.data.scenes.grammar import SUBJECT_WORD
from t2ilab.data.scenes.world import TEDDY
from t2ilab.measuring.carries import captions
from t2ilab.objectives.dreambooth import PRIOR, SHARE
from t2ilab.optim.groups import set_rates
from t2ilab.stages.assembly import Assembly, assemble, train
from t2ilab.stages.class_images import class_images
from t2ilab.stages.faults import is_a
from t2ilab.stages.live_text import LiveTexts, make_live
from t2ilab.stages.pretrain import Pretrain, learner
from t2ilab.text.learned import known_words, with_words
from t2ilab.text.rare import rare_word
from t2ilab.training.job import Job
from t2ilab.training.start import Start

FOLDER = "class_images"


class Personalize(Pretrain):
    """A denoiser learns a subject; rows from `first_of_class` on are of its class.

    Attributes:
        first_of_class: number of the first such row; None if there are none.
        share: of the class's rows in a batch.
        live: reads the captions where something of the text encoder trains.
        rates: of its parameters.
    """

    first_of_class: int | None = None
    share: float = 0.0
    live: LiveTexts | None = None
    rates: Sequence[tuple[list[nn.Parameter], float]] = ()

    def texts(self, rows: dict[str, Any]) -> Condition:
        return super().texts(rows) if self.live is None else self.live(rows["index"])

    def new_optimizers(self) -> list[torch.optim.Optimizer]:
        found = super().new_optimizers()
        for optimizer in found:
            set_rates(optimizer, self.rates)
        return found

    def given(self) -> set[str]:
        frozen = {f"student.{name}" for name, p in self.student.named_parameters() if not p.requires_grad}
        return super().given() | (frozen if self.live else set())

    def to_batch(self, rows: dict[str, Any], rng: RowRng) -> Batch:
        if self.live is not None and self.dropout(rng.step) > 0:
            self.null = self.live.conditioner.null(1)
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
    text = text_node(config, start, token, class_name)
    inherited = start.parts(config) | {"data": node, "conditioner": text}
    with Job.open(config | start.noted, inherited=inherited) as job:
        if (value := job.finished()) is not None:
            return value
        if job.first:
            print(f"{stage['name']}: {prompt_of(f'{token} {class_name}')!r} is the subject", flush=True)
        if prior:
            class_images(job, start, folder, prompt_of(class_name), own=not named)
        parts = assemble(job, start.student, start)
        made = personal_learner(job, parts, start)
        if prior:
            subject, others = parts.data.quotas.values()
            made.first_of_class = len(parts.data.sources()[0])
            made.share = others / (subject + others)
        return train(job, parts, made, start)


def personal_learner(job: Job, parts: Assembly, start: Start) -> Personalize:
    """The learner of these parts, with what trains of the text encoder."""
    stage, conditioner = job.config["stage"], parts.generate.conditioner
    rates = make_live(parts, word_lr=stage.get("word_lr", 0.0), text_lr=stage.get("text_lr"))
    if inverts(job.config):
        parts.denoiser.backbone.requires_grad_(False)
        conditioner.base_notes = start.base
    if job.first and rates:
        count = sum(p.numel() for parameters, _ in rates for p in parameters)
        print(f"text encoder: {count:,} weights of it train", flush=True)
    made = learner(job, parts, Personalize)
    if rates:
        made.live, made.rates = LiveTexts.of(conditioner, parts.data.sources()), rates
    return made


def inverts(config: dict[str, Any]) -> bool:
    """Whether the vectors of a word train alone."""
    return bool(is_a(config["loss"], "t2ilab.objectives.textual_inversion.TextualInversion"))


def text_node(config: dict[str, Any], start: Start, token: str, class_name: str) -> dict[str, Any]:
    """The node of the text encoder: that of the model, with the vectors of a word where it shall be learned."""
    node = start.opened.nodes["conditioner"]
    if not inverts(config) or token in known_words(node):
        return node
    loss = config["loss"]
    begins = {token: loss["init_word"] or class_name}
    return with_words(node, words={token: loss["vectors"]}, starts=begins)


def words_of(config: dict[str, Any], start: Start) -> tuple[str, str]:
    """The rare word and the class of a run; a word that the model has learned before is its word.

    Raises:
        ValueError: the word is not rare, saying why.
    """
    stage, scenes = config["stage"], is_a(config["data"], "t2ilab.data.sets.Scenes")
    token, class_name = stage["token"], stage["class_name"]
    if scenes:
        token, class_name = token or SUBJECT_WORD, class_name or TEDDY
    node = start.opened.nodes["conditioner"]
    if (learned := known_words(node)) and token in (None, *learned):
        return token or learned[0], class_name
    return rare_word(build(node), old_captions(start), token, alone=not inverts(config)), class_name


def old_captions(start: Start) -> list[str]:
    """Captions of the data that the model was trained on, as far as they are here; none of a subject's."""
    own = start.opened.manifest["stage"] == "personalize"
    try:
        return [] if start.data is None or own else captions(build(start.data).train)
    except (ValueError, OSError) as error:
        print(f"note: whether the word is rare in the data of init_from is not known: {error}", flush=True)
        return []
