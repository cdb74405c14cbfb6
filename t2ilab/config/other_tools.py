"""What diffusers' scripts, kohya's and other tools call options and stages, and what they are called here."""

from __future__ import annotations

SECTIONS = (
    "stage",
    "trainer",
    "train",
    "training",
    "lora",
    "network",
    "model",
)  # where those keep their options
OPTIONS = {
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
    "output": "run_dir",
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
    "num_images_per_prompt": "stage.copies",
    "lora_scale": "stage.adapter_scale",
    "guidance_scale": "guidance.scale",
    "cfg_scale": "guidance.scale",
    "validation_prompt": "prompts",
    "gpus": "trainer.devices",
    "num_processes": "trainer.devices",
}
STAGES = {  # what is done by a stage of another name, or is a choice within one
    **{loss: f"stage=preference loss={loss}" for loss in ("dpo", "ipo", "kto", "mapo")},
    **{
        loss: f"stage=distill loss={loss}"
        for loss in ("lcm", "progressive", "consistency", "kd", "reflow", "instaflow")
    },
    "lora": "stage=sft adapter=lora",
    "dreambooth": "stage=personalize",
    "textual_inversion": "stage=personalize loss=textual_inversion",
    "finetune": "stage=sft",
    "train": "stage=pretrain",
    "inference": "stage=sample",
    "vae": "stage=autoencoder",
}


STEPS = "sampler.grid.steps"  # which `steps` are where nothing is trained


def called_here(key: str, *, trains: bool = True) -> str | None:
    """The option here for one of another tool, which may stand in a section of its own, `lora.rank`.

    Args:
        trains: whether the stage does.
    """
    section, _, name = key.rpartition(".")
    if section not in ("", *SECTIONS):
        return None
    return STEPS if name == "steps" and not trains else OPTIONS.get(name)
