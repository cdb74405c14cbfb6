"""Dotted names of options, and which one was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from t2ilab.build import RESERVED

PATHS = ("path", "tokenizer_path", "run_dir", "init_from", "dir")  # options that name a place on the disk

SECTIONS = (
    "stage",
    "trainer",
    "train",
    "training",
    "lora",
    "network",
    "model",
)  # where other tools keep theirs
HABITS = {  # options of other tools, and what they are called here
    "steps": "trainer.max_steps",
    "epochs": "trainer.max_steps",
    "max_train_steps": "trainer.max_steps",
    "num_train_epochs": "trainer.max_steps",
    "learning_rate": "optimizer.lr",
    "unet_lr": "optimizer.lr",
    "text_encoder_lr": "stage.text_lr",
    "lr_scheduler": "schedule",
    "lr_warmup_steps": "schedule.warmup",
    "train_batch_size": "data.batch_size",
    "gradient_accumulation_steps": "trainer.accumulate",
    "mixed_precision": "trainer.precision",
    "checkpointing_steps": "checkpoint.every",
    "ema_decay": "ema.decay",
    "output_dir": "run_dir",
    "resume_from_checkpoint": "run_dir",
    "pretrained_model_name_or_path": "init_from",
    "instance_data_dir": "data.path",
    "train_data_dir": "data.path",
    "class_prompt": "stage.class_name",
    "num_class_images": "stage.class_images",
    "prior_loss_weight": "loss.prior_weight",
    "beta_dpo": "loss.beta",
    "rank": "adapter.rank",
    "lora_rank": "adapter.rank",
    "network_dim": "adapter.rank",
    "network_alpha": "adapter.alpha",
    "num_inference_steps": "sampler.grid.steps",
    "guidance_scale": "guidance.scale",
    "cfg_scale": "guidance.scale",
    "validation_prompt": "prompts",
    "gpus": "trainer.devices",
    "num_processes": "trainer.devices",
}
STAGES = {  # what is done by a stage of another name, or is a choice within one
    **{loss: f"stage=preference loss={loss}" for loss in ("dpo", "ipo", "kto", "mapo")},
    **{loss: f"stage=distill loss={loss}" for loss in ("lcm", "progressive", "consistency", "kd")},
    **{loss: f"stage=distill loss={loss}" for loss in ("reflow", "instaflow")},
    "lora": "stage=sft adapter=lora",
    "dreambooth": "stage=personalize",
    "textual_inversion": "stage=personalize loss=textual_inversion",
    "finetune": "stage=sft",
    "train": "stage=pretrain",
    "inference": "stage=sample",
    "vae": "stage=autoencoder",
}


def habit(key: str) -> str | None:
    """What an option of another tool is called here; it may stand in a section of its own, `lora.rank`."""
    section, _, name = key.rpartition(".")
    return HABITS.get(name) if section in ("", *SECTIONS) else None


def is_path_option(name: str) -> bool:
    """Whether the option with this dotted name, or this item of one, takes a path."""
    return name.rpartition(".")[2].lstrip("+").partition("[")[0] in PATHS


def suggestion(key: str, known: list[str]) -> str | None:
    """The known dotted key closest to a misspelt one."""
    leaves = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    found = [*leaves, *close] if "." not in key else [*close, *leaves]
    return found[0] if found else None


def dotted(value: object, path: str = "") -> list[str]:
    """All dotted keys of a nested dict, inner nodes included."""
    if not isinstance(value, Mapping):
        return [path] if path else []
    inner = [
        name
        for key, item in value.items()
        if key not in RESERVED
        for name in dotted(item, f"{path}.{key}" if path else str(key))
    ]
    return ([path] if path else []) + inner


def leaves(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values of nested dicts with their dotted names; a list counts as one value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
