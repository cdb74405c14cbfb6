"""Every option of every group: it composes, fits what reads it, and does something."""

import functools
import itertools
import math
import re

import pytest
import torch
import yaml

from t2ilab.averages import snapshots
from t2ilab.build import build, locate
from t2ilab.config import composition
from t2ilab.config.groups import MIXINS
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.shift import dimension, flux, resolution
from t2ilab.export.weak_model import provide
from t2ilab.objectives.distill.base import Distillation
from t2ilab.objectives.dreambooth import DreamBooth
from t2ilab.objectives.preference.base import Preference
from t2ilab.objectives.textual_inversion import TextualInversion
from t2ilab.pipeline import TextToImage
from tests.tiny import command, finished_run, workplace

CONF = composition.conf_folder()
OPTIONS = sorted(
    f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml") if path.parent.name != "stage"
)
VP = ["prediction=eps", "loss=diffusion", "sampler.grid.start=0.999"]
VE = ["prediction=edm", "path=ve", "loss=diffusion", "sampler=edm"]
ADVERSARIAL = ["stage=autoencoder", "loss=adversarial_reconstruction"]
SAMPLE = ["stage=sample", "init_from=somewhere", "prompts=[a red circle]"]
PAIRS = ["stage=pairs", "init_from=somewhere"]
PREFERENCE = ["stage=preference", "init_from=somewhere"]
SFT = ["stage=sft", "init_from=somewhere"]
DISTILL = ["stage=distill", "init_from=somewhere"]
WITH = {  # what an option needs beside it, in the stage that reads it; the others go with the default run
    **{f"adapter={kind}": SFT for kind in ("dora", "loha", "lokr", "lora", "pissa", "rslora")},
    "autoencoder=flux": ["autoencoder.path=FOLDER"],
    "autoencoder=kl_tiny": ["stage=autoencoder"],
    "autoencoder=sd": ["autoencoder.path=FOLDER"],
    "autoencoder=sd3": ["autoencoder.path=FOLDER"],
    "autoencoder=sdxl": ["autoencoder.path=FOLDER"],
    "autoencoder=scenes_reg": ["recipe=reg"],
    "conditioner=clip": ["conditioner.path=FOLDER"],
    "conditioner=flux": [f"conditioner.encoders.{name}.path=FOLDER" for name in ("clip_l", "t5")],
    "conditioner=pixart": ["conditioner.path=FOLDER"],
    "conditioner=sd15": ["conditioner.path=FOLDER"],
    "conditioner=sd3": [f"conditioner.encoders.{name}.path=FOLDER" for name in ("clip_l", "clip_g", "t5")],
    "conditioner=sdxl": [f"conditioner.encoders.{name}.path=FOLDER" for name in ("clip_l", "clip_g")],
    "conditioner=t5": ["conditioner.path=FOLDER"],
    "curriculum=aspect": ["data=folder_buckets", "data.path=FOLDER", "model=dit_tiny"],
    "curriculum=captions": [],
    "curriculum=quality": ["data=mixture"],
    "curriculum=unmask": ["model=dit_tiny", "routing@model.routing=masking"],
    "data=folder": ["data.path=FOLDER"],
    "data=folder_buckets": ["data.path=FOLDER", "model=dit_tiny"],
    "data=pairs": [*PREFERENCE, "data.path=FOLDER"],
    "data=preferences": [*PREFERENCE, "data.path=FOLDER"],
    "data=scenes_preferences": PREFERENCE,
    "data=scenes_tiny": ["model=dit_tiny"],
    "guidance=autoguidance": ["guidance.path=FOLDER"],
    "guidance=early": ["ema.snapshot_at=0.25"],
    "latent_alignment=va_vae": ADVERSARIAL,
    "loss=adversarial_reconstruction": ADVERSARIAL,
    "loss=bradley_terry": ["stage=reward"],
    "loss=plackett_luce": ["stage=reward"],
    "loss=gaussian_utility": ["stage=reward", "model.uncertain=true"],
    "loss=contrastive": ["stage=encoder"],
    "loss=dreambooth": ["stage=personalize", "init_from=somewhere"],
    "loss=textual_inversion": ["stage=personalize", "init_from=somewhere"],
    "levels=ect": [*DISTILL, "loss=consistency"],
    "levels=even": [*DISTILL, "loss=consistency"],
    "levels=ict": [*DISTILL, "loss=consistency"],
    "levels=karras": [*DISTILL, "loss=consistency"],
    **{
        f"loss={path.stem}": DISTILL
        for path in (CONF / "loss").glob("*.yaml")
        if ".distill." in path.read_text()
    },
    "loss=reflow": [*DISTILL, "data=pairs", "data.path=FOLDER"],
    "loss=instaflow": [*DISTILL, "data=pairs", "data.path=FOLDER"],
    "loss=reconstruction": ["stage=autoencoder"],
    "loss=dpo": [*PREFERENCE, "data=scenes_preferences"],
    "loss=hinge": [*PREFERENCE, "data=scenes_preferences"],
    "loss=ipo": [*PREFERENCE, "data=scenes_preferences"],
    "loss=kto": [*PREFERENCE, "data=scenes_preferences"],
    "loss=mapo": [*PREFERENCE, "data=scenes_preferences"],
    "loss=sft_winners": [*PREFERENCE, "data=scenes_preferences"],
    "loss=score_matching": ["path=vp_linear", "prediction=score", "sampler.grid.start=0.999"],
    "model=reward_clip": ["stage=reward"],
    "model=two_towers": ["stage=encoder"],
    "features=dinov2_b": ["features@terms.repa.encoder=dinov2_b", "terms.repa.encoder.path=FOLDER"],
    "features=dinov3_l": ["features@terms.repa.encoder=dinov3_l", "terms.repa.encoder.path=FOLDER"],
    "features=open_clip": ["features@terms.repa.encoder=open_clip", "terms.repa.encoder.path=FOLDER"],
    "scorer=open_clip": ["eval.scorer.path=FOLDER"],
    "optimizer=schedule_free": ["schedule=constant"],
    "routing=masking": ["model=dit_tiny"],
    "routing=none": ["model=mmdit_tiny"],
    "routing=sprint": ["model=pixart_tiny"],
    "routing=tread": ["model=single_tiny"],
    "path=ddpm_linear": VP,
    "path=scaled_linear": VP,
    "path=ve": VE,
    "perceptual=clip": ADVERSARIAL,
    "perceptual=lpips": [*ADVERSARIAL, "loss.perceptual.path=FILE"],
    "path=vp_cosine": VP,
    "path=vp_linear": VP,
    "prediction=edm": VE,
    "prediction=eps": ["sampler.grid.start=0.999"],
    "prediction=score": ["sampler.grid.start=0.999"],
    "reward=aesthetic": [*PAIRS, "reward.path=FOLDER", "reward.clip.path=FOLDER"],
    "reward=clip_score": PAIRS,
    "reward=combined": PAIRS,
    "reward=image_reward": [*PAIRS, "reward.path=FOLDER"],
    "reward=hps": [*PAIRS, "reward.path=FOLDER"],
    "reward=judge": PAIRS,
    "reward=learned": [*PAIRS, "reward.path=FOLDER"],
    "reward=none": PAIRS,
    "reward=pick_score": [*PAIRS, "reward.path=FOLDER"],
    "sampler=edm": VE,
    "sampler=reverse_sde": ["recipe=score_sde"],
    "terms=reg": ["recipe=reg"],
    "trainer=inference": SAMPLE,
    "weighting=edm": VE,
    "weighting=min_snr": ["path=vp_cosine", *VP],
    "weighting=p2": ["path=vp_cosine", *VP],
}


def written(path):
    """The part that a file describes; a file that also brings others (`@package _global_`) names its group."""
    text = yaml.safe_load(path.read_text())
    return text if "_target_" in text else {"defaults": []} | text[path.parent.name]


def own_place(option):
    """The override that makes a choice: some groups are parts of another one, terms are a list."""
    group, _, choice = option.partition("=")
    if group == "callbacks":
        return f"callbacks=[{choice}]"
    if group == "terms":
        return "terms=[repa]" if choice == "repa" else f"terms=[repa,{choice}]"
    return f"{group}@{composition.INSIDE[group]}={choice}" if group in composition.INSIDE else option


def rounds():
    """Commands that together make every choice that needs nothing beside it, one of each group at a time."""
    alone = [option for option in OPTIONS if option not in WITH and option.split("=")[0] not in MIXINS]
    by_group = [
        list(chosen) for _, chosen in itertools.groupby(alone, key=lambda option: option.split("=")[0])
    ]
    return [[own_place(option) for option in chosen if option] for chosen in itertools.zip_longest(*by_group)]


def assert_chosen(config, options):
    for option in options:
        group, _, choice = option.partition("=")
        if group in ("terms", "callbacks"):
            assert set(choice.strip("[]").split(",")) <= set(config[group])
            continue
        group = group.partition("@")[0]
        owner, _, inner = composition.INSIDE.get(group, "").partition(".")
        made = config[owner].get(inner) if owner and owner != "terms" else config.get(group)
        if isinstance(made, dict):
            assert made["_target_"] == written(CONF / group / f"{choice}.yaml")["_target_"]


@pytest.mark.parametrize("options", rounds(), ids=str)
def test_every_option_composes_and_fits_the_default_stage(options):
    assert_chosen(composition.checked(options), options)


@pytest.mark.parametrize("option", WITH)
def test_every_option_that_needs_others_composes_and_fits_the_stage_that_reads_it(option, tmp_path):
    group = option.split("=")[0]
    own = "terms=[repa]" if group == "features" else own_place(option)
    beside = [item for item in WITH[option] if item.split("=")[0] != group]
    small = (
        [] if "model=" in option or "=dit_" in str(beside) or "stage=" in str(beside) else ["model=dit_nano"]
    )
    (tmp_path / "weights.pth").touch()
    places = {"FOLDER": str(tmp_path), "FILE": str(tmp_path / "weights.pth")}
    for name, place in places.items():
        beside = [item.replace(name, place) for item in beside]
    config = composition.checked([own, *small, *beside])
    assert_chosen(config, [option])


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.startswith(MIXINS)])
def test_every_recipe_and_debug_setting_passes_the_check_and_changes_something(option):
    needed = {
        "recipe=photos": ["data=folder", "data.path=/"],
        "debug=tiny_pairs": ["init_from=x", "reward=judge"],
    }
    beside = needed.get(option, [])
    composition.checked([option, *beside])
    before, after = (composition.compose([*beside, *options, "run_dir=here"]) for options in ([], [option]))
    assert before != after


@pytest.mark.parametrize("stage", sorted(path.stem for path in (CONF / "stage").glob("*.yaml")))
def test_a_stage_is_named_as_its_file_and_its_job_can_be_imported(stage):
    config = composition.compose([f"stage={stage}"])
    assert config["stage"]["name"] == stage
    assert callable(locate(config["stage"]["job"]))
    assert set(config["stage"]["uses"]) <= {*composition.groups(), *composition.NAMED}


@pytest.mark.parametrize(
    "path", sorted(CONF.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_file_begins_by_saying_what_it_is_and_stays_small(path):
    lines = path.read_text().splitlines()
    first = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert re.match(r"# \S.{9,}", first), first
    assert path.read_text().isascii()
    assert len(lines) <= (90 if path.name == "config.yaml" else 70)  # it lists every group
    shared = path.parent == CONF and path.stem != "config"  # between stages
    mixin = (
        shared
        or path.parent.name in ("recipe", "debug", "stage")
        or path.stem in ("folder", "folder_buckets")
    )
    assert (lines[0] == "# @package _global_") == mixin, "only these change other groups"


@pytest.mark.parametrize(
    "path", sorted(CONF.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_part_gives_all_arguments_of_its_constructor(path):
    """Numbers stand in the yaml, not in defaults of the code; what a stage hands in is left to it."""
    if path.parent.name in ("recipe", "debug", "stage"):
        return
    import inspect

    text = written(path)
    target = locate(text["_target_"])
    if text.get("_partial_") or not target.__module__.startswith("t2ilab."):
        return
    given = {key for key in text if key not in ("defaults", "_target_")}
    given |= {
        key.partition("@")[2].partition(".")[0]
        for item in text.get("defaults", [])
        if item != "_self_"
        for key, choice in item.items()
        if choice
    }
    parameters = inspect.signature(target).parameters
    assert given <= set(parameters)
    assert [name for name in set(parameters) - given if parameters[name].default is not None] == []


def encoders(*overrides):
    config = composition.compose(["data=folder", "data.path=/", *overrides])
    return [
        (config.get(group) or {}).get("_target_", "").rpartition(".")[2]
        for group in ("autoencoder", "conditioner")
    ]


def test_images_of_ones_own_bring_encoders_for_images_and_words_of_any_kind():
    assert encoders() == encoders("data=folder_buckets") == ["PCA", "RandomText"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["autoencoder=sd", "autoencoder.path=/"], ["PretrainedKL", "RandomText"]),
        (["conditioner=scenes"], ["PCA", "EmbeddedCLIP"]),
        (["recipe=reg"], ["WithClassToken", "RandomText"]),
        (["debug=tiny"], ["Identity", "RandomText"]),
        (["stage=autoencoder"], ["KL", ""]),
        (["stage=evaluate"], ["", ""]),
    ],
    ids=str,
)
def test_stages_recipes_and_the_command_line_win_over_the_encoders_that_data_bring(overrides, expected):
    assert encoders(*overrides) == expected


T5, CLIP = ["conditioner.dim=4096"], ["conditioner.dim=768"]
PAPERS = {
    "dit_xl": ([], pytest.approx(675e6, rel=0.01)),
    "mmdit_b": (
        [*T5, "conditioner.pooled_dim=2048", "autoencoder.channels=16", "model.qk_norm=false"],
        254_784_064,
    ),
    "mmdit_sd3": ([*T5, "conditioner.pooled_dim=2048", "autoencoder.channels=16"], 2_028_328_000),
    "pixart_xl": ([*T5, "autoencoder.channels=4", "model.learn_sigma=true"], 610_856_096),
    "single_lumina2": (["conditioner.dim=2304", "autoencoder.channels=16"], 2_609_769_152),
    "unet_sd15": ([*CLIP, "autoencoder.channels=4"], 859_520_964),
}


@pytest.mark.parametrize("name", PAPERS)
def test_presets_have_the_parameters_of_their_papers_with_the_texts_and_latents_of_these(name):
    from t2ilab.stages.pretrain import make_denoiser

    options, parameters = PAPERS[name]
    config = composition.compose([f"model={name}", "run_dir=here", *options])
    with torch.device("meta"):
        denoiser = make_denoiser(config)
    assert sum(p.numel() for p in denoiser.parameters()) == parameters
    assert all(p.is_meta for p in denoiser.parameters())


def shifts_of(*overrides):
    """The shift of the training times and that of the sampler's grid."""
    config = composition.checked(["model=dit_nano", *overrides])
    return config["timestep"]["shift"], config["sampler"]["grid"]["shift"]


@pytest.mark.parametrize(
    ("overrides", "shift"),
    [
        ([], 2.2),
        *(
            ([f"sampler={name}", "timestep.shift=3"], 3.0)
            for name in ("ddim", "ddpm", "dpmpp_2m", "euler", "heun")
        ),
        (["timestep.shift.value=2.5"], 2.5),
        (["timestep=uniform"], 1.0),
        (["shift@timestep.shift=resolution", "timestep.shift.reference=32"], 2.0),
        (["shift@timestep.shift=dimension"], (320 / 4096) ** 0.5),
        (["shift@timestep.shift=flux", "model=dit_b", "timestep.shift.edge=64"], math.exp(0.63)),
    ],
    ids=str,
)
def test_the_grid_of_every_sampler_is_shifted_as_the_training_times_are(overrides, shift):
    assert shifts_of(*overrides) == pytest.approx((shift, shift))


def test_the_sizes_that_decide_a_shift_are_those_of_the_model_and_its_latents():
    chosen = (["flux"], ["flux", "model=dit_b"], ["dimension"], ["resolution"])
    shifts = [
        composition.compose([f"shift@timestep.shift={rule}", *more])["timestep"]["shift"]
        for rule, *more in chosen
    ]
    assert shifts == [flux(8, 1), flux(8, 2), dimension(5, 8), resolution(64, 256)]


def test_the_grid_can_be_shifted_apart_from_the_training_times():
    assert shifts_of("sampler.grid.shift=2") == (2.2, 2.0)


@pytest.mark.parametrize(("path", "end"), [("linear", None), ("ve", 160.0)])
def test_log_normal_times_know_where_the_path_ends(path, end):
    assert composition.compose(["timestep=log_normal", f"path={path}"])["timestep"]["sigma_max"] == end


SMALL = ["debug=tiny", "trainer.max_steps=2", "checkpoint.every=2", "stage.preview_every=2"]
LOSSES = {
    "flow_matching": [],
    "diffusion": ["path=vp_cosine", "prediction=eps", "sampler=ddim", "sampler.grid.start=0.99"],
    "score_matching": ["path=vp_linear", "prediction=score", "sampler.grid.start=0.99"],
}
ANOTHER_WAY = [
    [
        "loss=diffusion",
        "path=scaled_linear",
        "path.zero_terminal_snr=true",
        "prediction=v",
        "timestep=beta",
        "sampler=ddpm",
    ],
    [
        "loss=diffusion",
        "path=ve",
        "prediction=edm",
        "sampler=edm",
        "timestep=uniform",
        "stage.time_scale=1.0",
    ],
    ["loss=diffusion", "path=trig", "prediction=v", "sampler=dpmpp_2m", "weighting@loss.weighting=min_snr"],
    [
        "loss=flow_matching",
        "prediction=x0",
        "sampler=sde",
        "optimizer=muon",
        "schedule=cosine",
        "guidance=none",
    ],
]
MODELS = [
    [f"model={name}", "model.patch_size=8", "model.depth=2", "optimizer=muon"]
    for name in ("mmdit_tiny", "pixart_tiny", "single_tiny")
] + [["model=dit_tiny", "model.patch_size=8", "model.positions=rope", "model.width=48", "model.heads=4"]]
ROUTED = {
    "masking": ["model=single_tiny"],
    "none": ["model=mmdit_tiny"],
    "sprint": ["model=dit_tiny", "model.positions=rope", "model.width=48", "model.heads=4", "terms=[irepa]"],
    "tread": ["model=mmdit_tiny", "terms=[repa,sra]"],
}
ROUTES = [
    [f"routing@model.routing={rule}", *more, "model.patch_size=8", "model.depth=3"]
    for rule, more in ROUTED.items()
]

REG = ["recipe=reg", "autoencoder=scenes_reg", "data.resolution=64", "model.patch_size=2"]


def test_every_loss_that_pretraining_can_take_is_trained_below():
    names = [path.stem for path in (CONF / "loss").glob("*.yaml")]
    made = {name: locate(target_of(f"loss={name}")) for name in names}
    elsewhere = Preference | DreamBooth | TextualInversion | Distillation
    taken = [
        name for name, one in made.items() if one.trains == "denoiser" and not issubclass(one, elsewhere)
    ]
    assert sorted(taken) == sorted(LOSSES)


def test_every_rule_of_routing_is_trained_below_and_can_be_had_with_every_transformer():
    assert sorted(ROUTED) == sorted(path.stem for path in (CONF / "routing").glob("*.yaml"))
    places = {
        path.stem: "/routing@routing" in path.read_text()
        for path in (CONF / "model").glob("*.yaml")
        if not path.stem.startswith(("unet", "two_towers", "reward"))
    }
    assert len(places) > 12 and all(places.values())


def target_of(option):
    group, _, choice = option.partition("=")
    return written(CONF / group / f"{choice}.yaml")["_target_"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [[f"loss={n}", *more] for n, more in LOSSES.items()] + ANOTHER_WAY + MODELS + ROUTES + [REG],
    ids=str,
)
def test_two_steps_train_evaluate_and_export(overrides, tmp_path):
    import csv
    import json

    command(*SMALL, *overrides, run_dir=tmp_path / "run")
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2]
    assert all(0 < float(row["train/loss"]) < 100 for row in rows)
    measured = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert 0 < measured["loss/heldout"]["value"] < 1e6
    assert (tmp_path / "run/export/t2ilab.json").is_file()


@functools.cache
def fitting(overrides):
    """Parts of a tiny model on which a sampler or a guidance can be tried."""
    config = composition.checked(["debug=tiny", *overrides])
    torch.manual_seed(0)
    denoiser = Denoiser(build(config["model"]), build(config["path"]), build(config["prediction"]))
    for parameter in denoiser.parameters():  # a new network ignores its text
        torch.nn.init.normal_(parameter, std=0.2)
    guidance = build(config["guidance"])
    provide(guidance, config, (3, 32, 32), early=early_snapshot(denoiser), device="cpu")
    return TextToImage(
        denoiser,
        build(config["conditioner"]),
        build(config["autoencoder"]),
        build(config["sampler"]),
        guidance,
        latent_shape=(3, 32, 32),
        precision="fp32",
    )


def early_snapshot(denoiser):
    path = workplace() / "early.safetensors"
    snapshots.write(path, {name: 0.9 * value for name, value in denoiser.state_dict().items()}, step=1)
    return path


def names(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("sampler", names("sampler"))
def test_every_sampler_draws_an_image(sampler):
    others = {"edm": VE, "reverse_sde": ["sampler.grid.start=0.99"]}.get(sampler, [])
    steps = "~sampler.grid" if sampler == "student" else "sampler.grid.steps=3"  # it has times of its own
    generate = fitting((f"sampler={sampler}", steps, *(o for o in others if not o.startswith("sampler="))))
    images = generate(["a red circle", "a red circle"], seed=0)
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert not torch.equal(images[0], images[1])
    assert torch.equal(images, generate(["a red circle", "a red circle"], seed=0))


@pytest.mark.parametrize("guidance", [name for name in names("guidance") if name != "embedded"])
def test_every_guidance_draws_an_image(guidance):
    beside = {"autoguidance": f"guidance.path={finished_run()}", "early": "ema.snapshot_at=0.5"}
    more = [beside[guidance]] if guidance in beside else []
    generate = fitting((f"guidance={guidance}", "sampler.grid.steps=8", *more))  # some inside the interval
    images = generate(["a red circle"], seed=0)
    assert images.shape == (1, 3, 32, 32)
    plain = generate.with_(guidance=build({"_target_": "t2ilab.core.guidance.NoGuidance"}))
    assert torch.equal(images, plain(["a red circle"], seed=0)) == (guidance == "none")


@pytest.mark.parametrize("mirror", ["wandb", "tensorboard"])
def test_a_mirrored_logger_can_be_made_offline(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = build(composition.compose([f"logger={mirror}"])["logger"])
    logger = options.mirror(save_dir=str(tmp_path))
    assert logger.name in ("t2ilab", "tensorboard")


FROM_A_MODEL = ("continue", "sft", "preference", "personalize", "distill")


@pytest.mark.parametrize(
    "stage",
    (
        "pretrain",
        "continue",
        "sft",
        "preference",
        "personalize",
        "distill",
        "autoencoder",
        "encoder",
        "reward",
    ),
)
def test_debug_makes_a_run_of_every_stage_small_and_leaves_its_kind(stage):
    beside = ["init_from=x"] * (stage in FROM_A_MODEL) + ["data=pairs", "data.path=x"] * (
        stage == "preference"
    )
    options = [f"stage={stage}", *beside]
    usual, small = (composition.compose([*options, *more]) for more in ([], ["debug=tiny"]))
    for group in ("data", "loss", "adapter"):
        kinds = [(config.get(group) or {}).get("_target_") for config in (usual, small)]
        assert kinds[0] == kinds[1], group
    assert small["data"].get("subset") == usual["data"].get("subset")
    assert small["trainer"]["max_steps"] == 4
    assert small["data"].get("size", 0) <= 48
    if stage != "preference":  # whose check wants a folder of pairs: see tests/stages/test_pairs.py
        composition.checked([*options, "debug=tiny"])


@pytest.mark.parametrize("stage", ["sample", "evaluate", "export", "compare"])
def test_debug_of_a_stage_that_trains_nothing_is_one_sentence(stage):
    with pytest.raises(
        ValueError, match=f"debug=tiny makes a training small, and stage={stage} trains nothing"
    ):
        composition.checked([f"stage={stage}", "init_from=x", "debug=tiny"])
