"""`stage=personalize`: teaches a finished model one subject from a few images.

The subject gets a rare word in front of its class, `a zwx dog`. DreamBooth trains the network, or an adapter of it,
and the text encoder if stage.text_lr is given; images of the class, drawn by the model as it starts, keep the rest.
Textual inversion trains vectors of the word alone; a run that starts from them goes on with them (pivotal tuning).
Sources: Ruiz et al. 2022, arXiv 2208.12242; Gal et al. 2022, arXiv 2208.01618; Roich et al. 2021, arXiv 2106.05744.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from t2ilab.build import Config, Node, build
from t2ilab.core.folders import expanded, local_folder
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch, Condition
from t2ilab.data.cache import digest_of
from t2ilab.data.mixture import Mixture
from t2ilab.data.personal import Named, data_node, naming, prompt_of
from t2ilab.data.scenes.grammar import SUBJECT_WORD
from t2ilab.data.scenes.world import TEDDY
from t2ilab.data.source import Rows
from t2ilab.data.verify import is_image, walk
from t2ilab.measuring.carries import captions, check_concept
from t2ilab.objectives.dreambooth import PRIOR, SHARE
from t2ilab.optim.groups import set_rates
from t2ilab.runs.machine import device_of
from t2ilab.stages.assembly import Assembly, assemble, train
from t2ilab.stages.class_images import class_images, refuse_others
from t2ilab.stages.faults import is_a
from t2ilab.stages.live_text import LiveTexts, concerned, make_live
from t2ilab.stages.options.base import INVERSION
from t2ilab.stages.pretrain import Pretrain, learner
from t2ilab.text.learned import known_words, with_words
from t2ilab.text.rare import rare_word
from t2ilab.training.job import Job, freeze
from t2ilab.training.reconstruction import reconstruct
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

    def texts(self, rows: Rows) -> Condition:
        return super().texts(rows) if self.live is None else self.live(rows["index"])

    def new_optimizers(self) -> list[torch.optim.Optimizer]:
        found = super().new_optimizers()
        for optimizer in found:
            set_rates(optimizer, self.rates)
        return found

    def given(self) -> set[str]:
        frozen = {f"student.{name}" for name, p in self.student.named_parameters() if not p.requires_grad}
        return super().given() | (frozen if self.live else set())

    def to_batch(self, rows: Rows, rng: RowRng) -> Batch:
        if self.live is not None and self.dropout(rng.step) > 0:
            self.null = self.live.null()
        batch = super().to_batch(rows, rng)
        if self.first_of_class is None:
            return batch
        prior = rows["index"].to(batch.x0.device) >= self.first_of_class
        share = torch.where(prior, self.share, 1 - self.share)
        return Batch(batch.x0, batch.condition, batch.null, {**batch.extras, PRIOR: prior, SHARE: share})


def run(config: Config) -> float | None:
    """Personalises the model of init_from; returns judge/overall (or minus the held-out loss without a judge)."""
    start = Start.of(config)
    _ = start.unchanged  # its text encoder is asked for the words
    subjects, old = subjects_of(config, start)
    stage, named = config["stage"], config["stage"]["class_folder"]
    prior = config["loss"].get("prior_weight", 0) > 0
    folders = class_folders(config, subjects) if prior else {}
    prompts = {name: naming(stage.get("class_prompts") or (), name) or [prompt_of(name)] for name in folders}
    node = data_node(config["data"], subjects, folders, prompts)
    text = text_node(config, start, subjects)
    inherited = start.parts(config) | {"data": node, "conditioner": text}
    with Job.open(config, start=start, inherited=inherited) as job:
        if (value := job.finished()) is not None:
            return value
        if job.first:
            names = ", ".join(repr(one.caption) for one in subjects)
            verb = "is the subject" if len(subjects) == 1 else "are the subjects"
            print(f"{stage['name']}: {names} {verb}", flush=True)
            for one in subjects:
                say_folders(one, config["data"])
        for name, folder in folders.items() if named else ():
            refuse_others(job, start, folder, prompts[name])
        check_subjects(job, data_node(config["data"], subjects, {}), old)
        for name, folder in folders.items():
            class_images(job, start, folder, prompts[name], own=not named)
        parts = assemble(job, start.student, start)
        made = personal_learner(job, parts, start)
        if prior:
            mixture = cast(Mixture, parts.data)
            quotas, sources = list(mixture.quotas.values()), mixture.sources()
            made.first_of_class = sum(map(len, sources[: len(subjects)]))
            made.share = sum(quotas[len(subjects) :]) / sum(quotas)
        return train(job, parts, made, start)


def say_folders(subject: Named, node: Node) -> None:
    """Says that images of several folders are one subject, in case that they were meant for several."""
    path = subject.path or node.get("path")
    files = filter(is_image, walk(local_folder(path, "data.path"))) if path else ()
    folders = sorted({str(Path(file).parent) for file in files})
    if len(folders) > 1:
        some = ", ".join(folders[:3]) + (", ..." if len(folders) > 3 else "")
        print(
            f"note: the images of {len(folders)} folders in {path} ({some}) are all "
            f"{subject.caption!r}; stage.subjects teaches each a word of its own",
            flush=True,
        )


def check_subjects(job: Job, node: Node, old: Sequence[str]) -> None:
    """Refuses what cannot be learned, before an image of the class is drawn.

    Args:
        node: of the data of the subjects alone.
        old: captions of the data that the model was trained on, as far as they are known.

    Raises:
        ValueError: their images or words get lost in the encoders, or of the text encoder nothing can train.
    """
    data, strip, device = build(node), job.run.reconstructions, device_of(job.trainer)
    names = ("autoencoder", "conditioner")
    autoencoder, conditioner = (freeze(build(job.config[name]), device) for name in names)
    if job.config["stage"].get("text_lr") is not None:
        concerned(conditioner)
    found = reconstruct(data.train, autoencoder)
    if job.first:
        found.save(strip)
    found.check(job.run.relative(strip), inherited=True)
    check_concept(data, old, autoencoder, conditioner)


def class_folders(config: Config, subjects: Sequence[Named]) -> dict[str, Path]:
    """Where the images of each class lie: in one folder, or in one for each of several.

    Names that differ in nothing but punctuation have a part of their digests behind them.
    """
    named = config["stage"]["class_folder"]
    folder = Path(expanded(named or f"{config['run_dir']}/{FOLDER}")).resolve()
    names = dict.fromkeys(one.class_name for one in subjects)
    if len(names) == 1:
        return dict.fromkeys(names, folder)
    plain = {name: re.sub(r"\W+", "_", name) for name in names}
    twice = {name for name in names if list(plain.values()).count(plain[name]) > 1}
    return {
        name: folder / (f"{plain[name]}_{digest_of({'class': name})[:8]}" if name in twice else plain[name])
        for name in names
    }


def personal_learner(job: Job, parts: Assembly, start: Start) -> Personalize:
    """The learner of these parts, with what trains of the text encoder."""
    stage, conditioner = job.config["stage"], parts.generate.conditioner
    _ = parts.rows  # encoded with the text encoder as it is
    rates = make_live(parts, word_lr=stage.get("word_lr", 0.0), text_lr=stage.get("text_lr"))
    if inverts(job.config):
        parts.denoiser.backbone.requires_grad_(False)
        conditioner.base_notes = start.base
    if job.first and rates:
        count = sum(p.numel() for parameters, _ in rates for p in parameters)
        print(f"text encoder: {count:,} weights of it train", flush=True)
    made = learner(job, parts, Personalize)
    assert isinstance(made, Personalize)
    if rates:
        made.live, made.rates = LiveTexts.of(conditioner, parts.data.sources()), rates
    return made


def inverts(config: Config) -> bool:
    """Whether the vectors of a word train alone."""
    return bool(is_a(config["loss"], INVERSION))


def text_node(config: Config, start: Start, subjects: Sequence[Named]) -> dict[str, Any]:
    """The node of the text encoder: that of the model, with the vectors of words where they shall be learned."""
    node = start.opened.nodes["conditioner"]
    new = [one for one in subjects if one.token not in known_words(node)]
    if not inverts(config) or not new:
        return node
    loss = config["loss"]
    words = {one.token: loss["vectors"] for one in new}
    return with_words(
        node, words=words, starts={one.token: loss["init_word"] or one.class_name for one in new}
    )


def subjects_of(config: Config, start: Start) -> tuple[list[Named], list[str]]:
    """The subjects of a run, and captions of the data before; a word that the model has learned is used first.

    Raises:
        ValueError: a word is not rare, saying why.
    """
    stage, scenes = config["stage"], is_a(config["data"], "t2ilab.data.sets.Scenes")
    token, class_name = stage["token"], stage["class_name"]
    if scenes:
        token, class_name = token or SUBJECT_WORD, class_name or TEDDY
    asked = [(token, class_name, None)]
    asked += [(one.get("token"), one["class_name"], one["path"]) for one in stage.get("subjects") or ()]
    node, given = start.opened.nodes["conditioner"], [word for word, _, _ in asked if word]
    conditioner, learned, found = build(node), known_words(node), list[Named]()
    alone = not inverts(config)
    for word in given:
        if word not in learned:
            rare_word(conditioner, [], word, alone=alone)  # before the data are opened
    texts = old_captions(start)
    for word, name, path in asked:
        taken = [*(one.token for one in found), *(one for one in given if one != word)]
        own = next((one for one in learned if one not in taken and word in (None, one)), None)
        own = own or rare_word(conditioner, texts, word, alone=alone, taken=taken)
        found.append(Named(own, name, path))
    return found, texts


def old_captions(start: Start) -> list[str]:
    """Captions of the data that the model was trained on, as far as they are here; none of a subject's."""
    manifest = start.opened.manifest
    own = manifest.get("trained_by", manifest["stage"]) == "personalize"
    try:
        return [] if start.data is None or own else captions(build(start.data).train)
    except (ValueError, OSError) as error:
        print(f"note: whether the word is rare in the data of init_from is not known: {error}", flush=True)
        return []
