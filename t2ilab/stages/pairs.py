"""`stage=pairs`: a finished model draws several images for each of its training prompts, a reward chooses among them.

Without a reward everything is kept, noise and all, and nothing adds noise on the way: what reflow and distillation
learn from. The noise comes from streams of its own: no image here is one that an evaluation draws.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from t2ilab.build import Config, Node, build
from t2ilab.callbacks.progress import ticker
from t2ilab.data.order import caption_choice
from t2ilab.data.sets import DataSet
from t2ilab.export.denoiser import Artifact
from t2ilab.export.manifest import MANIFEST, as_parent, identity, manifest_of, write_manifest, write_text
from t2ilab.pairs import PROMPTS, SHARDS, Kept, chosen, groups_of, shard_facts, write_shard
from t2ilab.pipeline import TextToImage
from t2ilab.rewards.base import NoReward, Reward
from t2ilab.runs.finished_model import data_node, open_model, sampler_node
from t2ilab.runs.folder import RunDir
from t2ilab.runs.outcome import Interrupted
from t2ilab.signals import Stopped
from t2ilab.training.job import freeze

STREAM = "pairs"
ROWS_PER_PROMPT = 256  # rows of noise for each prompt, so that an image does not depend on `stage.images`
EVALUATED = ("test", "val", "compose")  # splits of the data set's prompts
PER_TASK = 100  # of the largest evaluation plan


def run(config: Config) -> float:
    """Draws, scores and writes; returns how many prompts were kept.

    Raises:
        ValueError: no prompt is left to draw, the reward cannot score one, or every one of them is a tie.
    """
    options, folder = config["stage"], RunDir(config["run_dir"])
    parent = as_parent(*manifest_of(config["init_from"], kind=("denoiser", "adapter")))
    folder.check({**config, "parents": [parent]})
    reward: Reward = build(config["reward"])
    artifact, generate = open_model(config)
    manifest = artifact.manifest
    data = build(data_node(config, manifest))
    sampler: Node = sampler_node(config, manifest)
    if config["sampler"] is None and isinstance(reward, NoReward):
        sampler = noise_free(sampler)
        generate = generate.with_(sampler=build(sampler))
    with folder.claimed():
        folder.remember({**config, "parents": [parent]})
        texts, skipped = training_prompts(data, options["prompts"], config["seed"], options["skip_evaluated"])
        reward.check(texts)
        folder.export.mkdir(parents=True, exist_ok=True)
        write_text(folder.export / PROMPTS, json.dumps(texts, ensure_ascii=False))
        drawer = Drawer(generate, reward, options, config["seed"])
        counts = draw_all(folder, drawer, texts)
        if not counts["kept"]:
            raise ValueError(
                f"all {len(texts)} prompts are ties: the scores of their {options['images']} images differ by no "
                f"more than stage.least_gap={options['least_gap']}; lower it, draw more with stage.images, or "
                "choose a reward that tells them apart, such as reward=clip_score"
            )
        facts = {
            "parents": [parent],
            "config": folder.options,
            "prompts": len(texts),
            **counts,
            "skipped": skipped,
            "reward": None if drawer.reward is None else config["reward"],
            "sampler": sampler,
            **facts_of(config, artifact, generate),
        }
        write_manifest(folder.export, "pairs", facts)
    print(
        f"{counts['kept']} of {len(texts)} prompts kept, {counts['ties']} ties dropped"
        + (f", {skipped} captions skipped that evaluations draw" if skipped else "")
        + f": {folder.relative(folder.export)}"
    )
    return float(counts["kept"])


def facts_of(config: Config, artifact: Artifact, generate: TextToImage) -> dict[str, Any]:
    """What the manifest says of how the images were drawn, beside reward and sampler."""
    options, nodes = config["stage"], artifact.nodes
    return {
        "stage": options["name"],
        "seed": config["seed"],
        "stream": STREAM,
        "images": options["images"],
        "guidance": config["guidance"] or nodes["guidance"],
        "path": nodes["path"],
        "resolution": artifact.manifest["resolution"],
        "latent_shape": list(generate.latent_shape),
        "autoencoder": identity(nodes["autoencoder"]),
        "precision": generate.precision,
        "data": data_node(config, artifact.manifest),
        "evaluation": {},
    }


def noise_free(sampler: Node) -> Node:
    """The node of a sampler whose image is a function of the first noise alone, at the same times; says so.

    Students with noise between their steps have no such way from noise to image and stay as they are.
    """
    if not build(sampler).is_stochastic or "grid" not in sampler:
        return sampler
    name = sampler["_target_"].rpartition(".")[2]
    print(
        f"reward=null: an image follows from its noise, so {name} gives way to DPM-Solver++(2M) without noise"
    )
    own = {"_target_": "t2ilab.sampling.dpm.DPMSolverPP2M", "lower_order_final": True, "eta": 0.0}
    return own | {"grid": sampler["grid"]}


def training_prompts(data: DataSet, wanted: int, seed: int, skip_evaluated: bool) -> tuple[list[str], int]:
    """Distinct captions of training images in their order, and how many were skipped as an evaluation's.

    Raises:
        ValueError: none is left.
    """
    taken = evaluated_texts(data) if skip_evaluated else set()
    found: dict[str, None] = {}
    skipped: set[str] = set()
    for index in range(len(data.train)):
        texts, weights = data.train.captions(index), data.train.weights(index)
        text = texts[caption_choice(seed, 0, index, weights or len(texts))]
        if text in taken:
            skipped.add(text)
        else:
            found[text] = None
        if len(found) == wanted:
            break
    if not found:
        raise ValueError(
            "data: every caption is one that evaluations draw: stage.skip_evaluated=false draws them, and the "
            "run that is trained on them must then be measured by other prompts"
        )
    return list(found), len(skipped)


def evaluated_texts(data: DataSet) -> set[str]:
    """What evaluations draw: captions of validation images, and the prompts of the data set's suites."""
    texts = {data.val.shown(index) for index in range(len(data.val))}
    if data.world is not None:
        for split in (*EVALUATED, *data.suites):
            texts |= {prompt.text for prompt in data.world.prompts(split, PER_TASK)}
    return texts


class Drawer:
    """Draws and scores the images of some prompts.

    Args:
        reward: NoReward keeps everything.
        options: of the stage.
    """

    def __init__(self, generate: TextToImage, reward: Reward, options: dict[str, Any], seed: int) -> None:
        self.generate = generate.with_(stream=STREAM, batch_size=options["batch_size"])
        self.reward = None if isinstance(reward, NoReward) else freeze(reward, generate.device)
        self.options, self.seed = options, seed

    def __call__(self, numbers: Sequence[int], texts: Sequence[str]) -> Kept:
        """What is kept of prompts with these numbers and texts."""
        copies = self.options["images"]
        prompts = [text for text in texts for _ in range(copies)]
        rows = [number * ROWS_PER_PROMPT + copy for number in numbers for copy in range(copies)]
        made = [
            self.images(prompts[part.start : part.stop], rows[part.start : part.stop])
            for part in groups_of(len(rows), max(copies, self.generate.batch_size // copies * copies))
        ]
        each = {name: torch.cat([one[name] for one in made]).unflatten(0, (-1, copies)) for name in made[0]}
        scores = each.pop("scores", None)
        each |= {"rows": torch.tensor(rows).view(-1, copies), "prompts": torch.tensor(list(numbers))}
        keep = {name: self.options[name] for name in ("keep", "least_gap")}
        return chosen(scores, each, **keep)

    @torch.no_grad()
    def images(self, prompts: list[str], rows: list[int]) -> dict[str, Tensor]:
        """Latents, noise and scores of one batch, which holds all images of its prompts."""
        latents = self.generate.latents(prompts, seed=self.seed, rows=rows)
        noise = self.generate.rng(self.seed, rows).normal("noise", *self.generate.latent_shape)
        found = {"latents": latents.half().cpu(), "noise": noise.half().cpu()}
        if self.reward is not None:
            images = self.generate.decode(latents).float() / 255
            found["scores"] = self.reward(images, prompts).cpu()
        return found


def draw_all(folder: RunDir, drawer: Drawer, texts: list[str]) -> dict[str, int]:
    """Writes every file that is not there yet; returns how many prompts are kept and how many were ties.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, saying how many files are kept.
    """
    counts = {"kept": 0, "ties": 0}
    tick = ticker("drawing prompts")
    (folder.export / MANIFEST).unlink(missing_ok=True)
    for unfinished in (folder.export / SHARDS).glob(".*.tmp"):  # of a process that was killed
        unfinished.unlink()
    shards = {
        folder.export / SHARDS / f"{number:05d}.safetensors": part
        for number, part in enumerate(groups_of(len(texts), drawer.options["shard"]))
    }
    done = sum(len(part) for path, part in shards.items() if path.is_file())
    tick(done, len(texts))  # what is there takes no time
    for number, (path, part) in enumerate(shards.items()):
        if not path.is_file():
            try:
                write_shard(folder.export, number, drawer(part, texts[part.start : part.stop]))
            except Stopped as stopped:
                raise Interrupted(
                    f"\nstopped, {number} files of {drawer.options['shard']} prompts are kept; the same command with "
                    f"run_dir={folder.path} goes on",
                    stopped.status,
                ) from None
            done += len(part)
            tick(done, len(texts))
        for name, value in shard_facts(path).items():
            counts[name] += value
    return counts
