"""What of a config does not fit together, one sentence per fault; `options/` says which stage asks what."""

from __future__ import annotations

from collections.abc import Callable

from t2ilab.build import Config, build, is_node, locate


def is_a(node: object, target: str) -> bool | None:
    """Whether a node makes an object of this class; None if there is no telling without making it."""
    if not is_node(node):
        return None
    try:
        made, wanted = locate(node["_target_"]), locate(target)
    except ValueError:  # a fault of the node's own, listed elsewhere
        return None
    return issubclass(made, wanted) if isinstance(made, type) and isinstance(wanted, type) else None


KINDS = {  # what a group makes; the other groups make functions, or what the stage says
    "stage": "t2ilab.stages.options.StageOptions",
    "data": "t2ilab.data.sets.DataSet",
    "autoencoder": "t2ilab.latents.base.Autoencoder",
    "conditioner": "t2ilab.text.base.Conditioner",
    "model": "torch.nn.Module",
    "path": "t2ilab.core.path.Path",
    "prediction": "t2ilab.core.prediction.Prediction",
    "timestep": "t2ilab.core.timestep.TimestepSampler",
    "loss": "torch.nn.Module",
    "sampler": "t2ilab.sampling.base.Sampler",
    "guidance": "t2ilab.core.guidance.Guidance",
    "eval": "t2ilab.eval.plan.EvaluationPlan",
    "reward": "t2ilab.rewards.base.Reward",
    "adapter": "t2ilab.models.adapters.Adapter",
    "ema": "t2ilab.averages.ema.EMA",
    "logger": "t2ilab.runs.machine.LoggerOptions",
    "checkpoint": "t2ilab.runs.machine.CheckpointOptions",
}


def wrong_kinds(config: Config) -> list[str]:
    """A sentence for each group whose node makes something else than the group stands for."""
    found = []
    for group, kind in KINDS.items():
        node, name = config.get(group), kind.rpartition(".")[2]
        if is_node(node) and is_a(node, kind) is False:
            found.append(f"{group}: wanted a {name}, got {node['_target_']}")
        elif group != "model" and is_node(node) and node.get("_partial_"):  # two towers wait for a tokenizer
            found.append(
                f"{group}._partial_: wanted a whole {name}, which takes no further arguments; leave it out"
            )
    return found


def other_class(config: Config, group: str, target: str, stage: str, choice: str) -> list[str]:
    """A sentence if a group's class is not the one that the stage works with, nor a child of it."""
    return [cannot_use(config, group, stage, choice)] if is_a(config[group], target) is False else []


def other_method(config: Config, trains: str, stage: str, choice: str) -> list[str]:
    """A sentence if the loss is known to train something else than the stage does."""
    if is_a(config["loss"], "t2ilab.objectives.base.Objective") is None:
        return []
    suits = getattr(locate(config["loss"]["_target_"]), "trains", None) == trains
    return [] if suits else [cannot_use(config, "loss", stage, choice)]


HOLDING = {  # data that a stage can read, by what they hold
    "images": "data=scenes",
    "comparisons": "data=scenes_preferences",
    "pairs": "data=pairs data.path=<run of stage=pairs>",
}


def other_data(config: Config, stage: str, *wanted: str) -> list[str]:
    """A sentence if the rows of the data are not what the stage reads."""
    node = config.get("data")
    if is_a(node, "t2ilab.data.sets.DataSet") is not True:
        return []
    holds = locate(node["_target_"]).holds  # type: ignore[index, attr-defined]
    if holds in wanted:
        return []
    choices = " or ".join(HOLDING[one] for one in wanted)
    return [f"data: stage={stage} reads {' or '.join(wanted)}, these data hold {holds}; choose {choices}"]


def judged(node: object) -> bool | None:
    """Whether a data node has prompts and a judge of its own; None if there is no telling without making it."""
    if is_a(node, "t2ilab.data.mixture.Mixture"):
        return judged(node["sources"].get(node["val"]))  # type: ignore[index]
    known = {"t2ilab.data.sets.Scenes": True, "t2ilab.data.sets.Folder": False}
    return next((found for target, found in known.items() if is_a(node, target)), None)


def idle_plan(config: Config) -> list[str]:
    """A sentence if nothing would be measured by the plan of `eval=`."""
    if not is_node(config.get("eval")):
        return []
    plan = build({**config["eval"], "rewards": {}})  # whose files are large
    return raised(lambda: plan.check(judged=judged(config["data"])))


def cannot_use(config: Config, group: str, stage: str, choice: str) -> str:
    name = config[group]["_target_"].rpartition(".")[2]
    return f"{group}: stage={stage} cannot use {name}; choose another one, such as {group}={choice}"


def class_token_faults(config: Config) -> list[str]:
    """A sentence if latents, model and loss do not agree on a vector that travels with the image."""
    autoencoder, model, terms = config["autoencoder"], config["model"] or {}, config["terms"] or {}
    carries = is_a(autoencoder, "t2ilab.features.class_token.WithClassToken")
    read = (model.get("class_dim"), model.get("class_channels") or 0)
    if not carries:
        alone = f"model.class_dim={read[0]}: no vector travels with these latents; omit it, or see recipe=reg"
        return [alone] if read[0] else []
    held = (autoencoder["encoder"].get("dim"), autoencoder["channels"] - autoencoder["vae"]["channels"])
    if read != held:
        return [
            f"autoencoder: these latents carry a vector of {held[0]} numbers in {held[1]} channels, which "
            "model.class_dim and model.class_channels of a DiT have to name, see recipe=reg"
        ]
    trained = [node for node in terms.values() if is_a(node, "t2ilab.objectives.terms.reg.REG")]
    return [] if trained else ["terms: model.class_dim is trained by terms=[reg] alone, which is missing"]


def clock_faults(config: Config) -> list[str]:
    """A sentence if times that speak of noise levels meet a path whose clock they do not know."""
    known = [is_a(config["path"], f"t2ilab.core.path.{name}") for name in ("Linear", "VE")]
    if not is_a(config["timestep"], "t2ilab.core.timestep.LogNormal") or None in known or any(known):
        return []
    return [
        "timestep: log_normal knows the noise levels of path=linear and path=ve alone; choose one of them, or "
        "timestep=logit_normal"
    ]


def unseen_empty_text(config: Config, dropout: float) -> list[str]:
    """A sentence if guidance asks for the estimate of the empty text from a model that never met it."""
    guided = is_a(config["guidance"], "t2ilab.core.guidance.CFG")
    by_another_model = is_a(config["guidance"], "t2ilab.core.autoguidance.Autoguidance")
    if dropout > 0 or not guided or by_another_model or config["guidance"].get("scale") == 1:
        return []
    return [
        "stage.condition_dropout=0: the model never meets the empty text that guidance compares with; choose "
        "stage.condition_dropout=0.1, or guidance=none"
    ]


def falling_rate(config: Config) -> list[str]:
    """A sentence if the rate falls under an optimizer that averages instead."""
    optimizer, total = config["optimizer"]["_target_"], config["trainer"]["max_steps"]
    if optimizer != "t2ilab.optim.schedule_free.schedule_free":
        return []
    schedule = build(config["schedule"])
    if schedule(total - 1, total) >= schedule(total // 2, total):
        return []
    return [
        "schedule: optimizer=schedule_free averages its steps instead of shrinking them: schedule=constant"
    ]


def idle_rate(config: Config) -> list[str]:
    """A sentence if nothing can be learned, in a stage that starts from random weights."""
    if config["optimizer"].get("lr") != 0:
        return []
    return [
        "optimizer.lr=0 leaves random weights as they are; only a stage that starts from a model takes it"
    ]


MUON = "t2ilab.optim.muon.MuonAdamW"

OWN = {  # callbacks that would do what a run does itself, and how it is asked for that
    "Checkpoint": "a run writes its own checkpoints, see checkpoint.every",
    "ProgressBar": "a run shows its own progress",
    "GradientAccumulationScheduler": "a run accumulates by itself, see trainer.accumulate",
    "WeightAveraging": "a run averages by itself, see ema=",
    "StochasticWeightAveraging": "a run averages by itself, see ema=",
    "EarlyStopping": "it waits for validation, which a run does not do; see stage.evaluate_every",
}


def callback_faults(config: Config) -> list[str]:
    """A sentence for each of `callbacks=` that is none of Lightning's, or one that a run cannot use."""
    found = []
    for name, node in (config.get("callbacks") or {}).items():
        if is_a(node, "lightning.pytorch.callbacks.Callback") is False:
            found.append(f"callbacks.{name}: {node['_target_']} is no lightning.pytorch.callbacks.Callback")
        for kind, instead in OWN.items():
            if is_a(node, f"lightning.pytorch.callbacks.{kind}"):
                found.append(f"callbacks.{name}: {node['_target_']} cannot be used: {instead}")
    return found


def logger_faults(config: Config) -> list[str]:
    """A sentence if `logger.mirror` names a class that is no Logger of Lightning."""
    mirror = (config.get("logger") or {}).get("mirror")
    if not is_node(mirror) or is_a(mirror, "lightning.pytorch.loggers.Logger") is not False:
        return []
    return [f"logger.mirror: {mirror['_target_']} is no lightning.pytorch.loggers.Logger"]


def raised(action: Callable[[], object]) -> list[str]:
    try:
        action()
    except (ValueError, TypeError) as error:
        return [str(error)]
    return []


def split_batch(config: Config, stage: str) -> list[str]:
    """A sentence if a batch whose rows are compared with each other would be cut: that is another loss."""
    names = ("devices", "num_nodes", "accumulate")
    made = build(config["trainer"])  # which knows what devices=auto is here
    parts = {name: getattr(made, name, 1) for name in names}
    if set(parts.values()) == {1}:
        return []
    return [
        f"trainer: stage={stage} compares all images and texts of a batch with each other, and a part of a batch "
        "has another loss: it takes "
        + " ".join(f"trainer.{name}=1" for name in names)
        + f", got {', '.join(f'{name}={value}' for name, value in parts.items())}; to save memory lower "
        "data.batch_size"
    ]


def uneven_batch(config: Config) -> list[str]:
    """A sentence if the rows of a step cannot be shared equally by all processes and micro-batches."""
    trainer = build(config["trainer"])
    parts = trainer.world * trainer.accumulate
    rows = config["data"].get("batch_size") or parts
    if rows % parts == 0:
        return []
    factors = "trainer.devices x trainer.num_nodes x trainer.accumulate"
    return [f"data.batch_size={rows} must be a multiple of {factors} = {parts}"]


def adapter_faults(config: Config) -> list[str]:
    """A sentence for each part that does not go with an adapter."""
    if not config.get("adapter"):
        return []
    found = []
    if is_made_by(config["optimizer"], MUON):
        found.append(
            "optimizer: a step of Muon is as large whatever the gradient, which suits whole matrices and not the "
            "factors of an adapter; choose optimizer=adamw_sft"
        )
    if keeps_snapshots(config):
        found.append("ema: snapshots are of whole networks; with an adapter choose ema=default or ema=none")
    return found


def text_faults(config: Config) -> list[str]:
    """A sentence for each part that does not go with words or a text encoder that train."""
    found = []
    if is_made_by(config["optimizer"], MUON):
        found.append(
            "optimizer: Muon has one rate for all matrices; for a text encoder choose optimizer=adamw_sft"
        )
    if keeps_snapshots(config):
        found.append(
            "ema: snapshots are of networks alone; with a text encoder choose ema=default or ema=none"
        )
    return found


def keeps_snapshots(config: Config) -> bool:
    """Whether the average of a run writes snapshots of itself."""
    power = is_a(config["ema"], "t2ilab.averages.power_ema.PowerEMA")
    return bool(power or (config["ema"] or {}).get("snapshot_at"))


def is_made_by(node: object, target: str) -> bool:
    """Whether a node names this very class or function."""
    return is_node(node) and node["_target_"] == target
