"""The options of `stage=personalize`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from t2ilab.build import Config
from t2ilab.core.folders import local_folder
from t2ilab.data.mixture import quotas
from t2ilab.data.personal import batch_shares, naming
from t2ilab.data.scenes.grammar import SUBJECT_WORD
from t2ilab.data.scenes.world import TEDDY
from t2ilab.stages.faults import is_a, is_made_by, raised, text_faults
from t2ilab.stages.options.base import INVERSION
from t2ilab.stages.options.denoiser import FromModelOptions

CAPTIONS = ("caption", "caption_prefix", "caption_column", "caption_weights")  # options of data=folder


@dataclass(frozen=True, kw_only=True)
class PersonalizeOptions(FromModelOptions):
    """Of `stage=personalize`.

    Attributes:
        token: the rare word; None for one that the text encoder finds.
        class_name: what the subject is; None for the teddy bear of data=subject.
        class_images: number of images of the class.
        class_folder: folder of such images; None for one in the run folder.
        class_prompts: what they are drawn for, in turn, each naming a class; None for the class alone.
        word_lr: rate of the vectors of a learned word, of loss=textual_inversion or of init_from; 0 leaves them.
        text_lr: rate of the text encoder; None leaves it.
        subjects: further ones, each with path, class_name and perhaps token; the data's other options are theirs too.
    """

    learns_words: ClassVar[bool] = True

    token: str | None
    class_name: str | None
    class_images: int
    class_folder: str | None
    word_lr: float = 0.005
    text_lr: float | None = None
    class_prompts: Sequence[str] | None = None
    subjects: Sequence[Mapping[str, str]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in self.subjects or ():
            if not {"path", "class_name"} <= set(one) <= {"path", "class_name", "token"}:
                raise ValueError(
                    "stage.subjects: each needs path and class_name, and may have a token: "
                    f"stage.subjects=[{{path:CAT,class_name:cat}}], got {dict(one)}"
                )
        words = [word for word in (self.token, *(one.get("token") for one in self.subjects or ())) if word]
        if twice := [word for word in words if words.count(word) > 1]:
            raise ValueError(
                f"stage.subjects: {twice[0]} is the word of two subjects; give each one of its own, or omit it and "
                "one is looked for"
            )
        for name in ("word_lr", "text_lr"):
            if not (getattr(self, name) or 0.0) >= 0:
                raise ValueError(f"stage.{name} must be 0 or more, got {getattr(self, name)}")
        if self.class_images < 1:
            raise ValueError(f"stage.class_images must be at least 1, got {self.class_images}")

    def unfit(self, config: Config, unsound: Collection[str]) -> list[str]:
        found = super().unfit(config, unsound)
        found += [] if {"loss", "optimizer", "ema"} & set(unsound) else self._text_faults(config)
        if "data" in unsound:
            return found
        if is_a(config["data"], "t2ilab.data.sets.Scenes"):
            if config["data"]["subset"] != "subject":
                found.append(
                    "data.subset: stage=personalize learns one subject: choose data=subject or data=folder"
                )
            if self.token not in (None, SUBJECT_WORD):
                found.append(
                    f"stage.token: the prompts that measure data=subject say {SUBJECT_WORD}: omit stage.token"
                )
        elif not self.class_name:
            found.append('stage.class_name: say what the subject is, stage.class_name="dog"')
        if self.subjects and not is_a(config["data"], "t2ilab.data.sets.Folder"):
            found.append("stage.subjects: several subjects are of data=folder, each with a folder of its own")
        for one in self.subjects or ():
            found += raised(partial(local_folder, one["path"], "stage.subjects.path"))
        found += [] if "loss" in unsound else self._small_batch(config)
        found += [] if "loss" in unsound else self._class_faults(config)
        if config["data"].get("buckets"):
            found.append("data.buckets: stage=personalize learns from squares; choose data=folder")
        own = f"a {self.token or 'zwx'} {self.class_name}"
        return found + [
            f"data.{name}: captions of the subject are not read, every image is {own!r} (stage.token, "
            "stage.class_name); omit it"
            for name in CAPTIONS
            if config["data"].get(name) and is_a(config["data"], "t2ilab.data.sets.Folder")
        ]

    def _class_faults(self, config: Config) -> list[str]:
        """What does not go with the images of the class, and options of theirs where none are drawn."""
        texts = self.class_prompts or ()
        names = [self.class_name or TEDDY, *(one["class_name"] for one in self.subjects or ())]
        named = {text for name in names for text in naming(texts, name)}
        found = [
            f"stage.class_prompts: {text!r} does not name {' or '.join(names)}"
            for text in texts
            if text not in named
        ]
        if len(texts) > self.class_images:
            found.append(
                f"stage.class_images={self.class_images} are fewer than stage.class_prompts, which are {len(texts)}: "
                "draw at least one of each"
            )
        if not config["loss"].get("prior_weight", 0) > 0:
            found += [
                f"stage.{name}: no images of the class are learned from; omit it, or choose loss=dreambooth with "
                "loss.prior_weight=1"
                for name in ("class_prompts", "class_folder")
                if getattr(self, name)
            ]
        return found

    def _small_batch(self, config: Config) -> list[str]:
        """A sentence if not every subject and every class has a row in a batch."""
        others, prior = self.subjects or (), config["loss"].get("prior_weight", 0) > 0
        subjects = [f"subject {number}" for number in range(1 + len(others))]
        classes = {self.class_name, *(one["class_name"] for one in others)} if prior else set()
        weights = batch_shares(subjects, [f"images of {name}" for name in classes])
        rows = config["data"].get("batch_size")
        if rows is None or len(weights) == 1 or not raised(lambda: quotas(weights, rows)):
            return []
        half = (
            f", half of it of subjects ({len(subjects)}), half of their classes ({len(classes)})"
            if classes
            else ""
        )
        without = ", or set loss.prior_weight=0" if classes else ""
        return [
            f"data.batch_size={rows} is too small for a batch with images of everything{half}: raise it{without}"
        ]

    def _text_faults(self, config: Config) -> list[str]:
        """What does not go with a word or a text encoder that trains."""
        inverts = is_a(config["loss"], INVERSION)
        found = text_faults(config) if inverts or self.text_lr is not None else []
        if self.text_lr is not None and is_made_by(config["optimizer"], "t2ilab.optim.prodigy.prodigy"):
            found.append(
                "optimizer: Prodigy finds one rate for all weights; with stage.text_lr choose optimizer=adamw_sft"
            )
        if inverts and config.get("adapter"):
            found.append(
                "adapter: loss=textual_inversion trains a word alone; omit adapter=, or give it to a run of "
                "loss=dreambooth that starts from this one"
            )
        if inverts and self.text_lr is not None:
            found.append("stage.text_lr: loss=textual_inversion trains a word alone; set stage.text_lr=null")
        if inverts and not self.word_lr > 0:
            found.append("stage.word_lr must be positive with loss=textual_inversion, got 0")
        return found

    @property
    def meets_empty_text(self) -> bool:
        """It does: trained on a few images, the empty text would only come to mean these."""
        return True
