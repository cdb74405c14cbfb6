"""The check of a config: every fault at once, by name, before anything heavy."""

import ast
import functools
import inspect
from pathlib import Path

import pytest

import t2ilab
from t2ilab.build import build, is_node, locate
from t2ilab.config.check import problems
from t2ilab.config.composition import checked, compose, groups
from t2ilab.config.names import suggestion

BUCKETS = "data=folder_buckets data.path=/ autoencoder=scenes model=dit_nano model.patch_size=1"
ALIGNED = "stage=autoencoder loss=adversarial_reconstruction latent_alignment@loss.latent_alignment=va_vae"
TREAD = "model=dit_tiny routing@model.routing=tread"
SAMPLE = ["stage=sample", "init_from=somewhere", "prompts=[a red circle]"]
STAGES = {
    "pretrain": [],
    "autoencoder": ["stage=autoencoder"],
    "adversarial": ["stage=autoencoder", "loss=adversarial_reconstruction"],
    "encoder": ["stage=encoder"],
    "sample": SAMPLE,
    "evaluate": ["stage=evaluate", "init_from=somewhere"],
    "export": ["stage=export", "init_from=somewhere"],
}


@functools.cache
def usual(stage):
    return checked(STAGES[stage])


def faults(*overrides):
    """The lines of the error, without their bullets; pretraining is tried with a DiT, which is built quickly."""
    names = [override.split("=")[0] for override in overrides]
    usual_model = [] if {"stage", "model"} & set(names) else ["model=dit_nano"]
    with pytest.raises(ValueError) as caught:
        checked([*usual_model, *overrides])
    first, *lines = str(caught.value).splitlines()
    assert first == f"{len(lines)} problem{'s' * (len(lines) > 1)} in the options:"
    return [line.removeprefix("  - ") for line in lines]


@pytest.mark.parametrize("stage", STAGES)
def test_the_usual_options_of_every_stage_pass(stage):
    config = usual(stage)
    assert config["stage"]["name"] == {"adversarial": "autoencoder"}.get(stage, stage)


def test_all_faults_of_a_command_are_listed_at_once_with_their_dotted_paths():
    found = faults(
        "+nonsense=1",
        "+trainer.nonsense=1",
        "model.width=wide",
        "ema.decay=3",
        "schedule.warmup=-1",
        "seed=-1",
        "prompts=[1,2]",
        "init_from=somewhere",
        "optimizer.lr=-1",
        "stage.condition_dropout=2",
        "autoencoder.path=/nowhere",
    )
    starts = [
        "init_from: this stage does not use it",
        "seed: wanted a whole number",
        "prompts: wanted a list of texts",
        "nonsense: unknown option",
        "trainer.nonsense: unknown option",
        "model.width: wanted int, got 'wide'",
        "ema.decay must be in [0, 1), got 3",
        "schedule.warmup must not be negative, got -1",
        "optimizer.lr must not be negative, got -1",
        "stage.condition_dropout must be in [0, 1], got 2",
        "autoencoder.path: there is no folder /nowhere",
    ]
    for start in starts:
        assert sum(line.startswith(start) for line in found) == 1, (start, found)
    assert len(found) == len(starts), found


def test_faults_of_many_kinds_are_named():
    wanted = {
        "+stage.nonsense=1": "stage.nonsense: unknown option",
        "+sampler.grid.stepz=3": "sampler.grid.stepz: unknown option; did you mean sampler.grid.steps?",
        "+loss.weighting.nonsense=3": "loss.weighting.nonsense: unknown option",
        "+seeed=3": "seeed: unknown option; did you mean seed?",
        "stage.preview_every=often": "stage.preview_every: wanted int, got 'often'",
        "trainer.devices=1.5": "trainer.devices: wanted",
        "trainer.max_steps=true": "trainer.max_steps: wanted int, got True",
        "trainer.num_nodes=null": "trainer.num_nodes: wanted int, got None",
        "data.caption_kinds=short": "data.caption_kinds: wanted",
        "seed=one": "seed: wanted a whole number from 0 to 4294967295, got 'one'",
        "prompts=a red circle": "prompts: wanted a list of texts",
        "run_dir=5": "run_dir: wanted a folder, got 5 (as a text: run_dir=\"'5'\")",
        "autoencoder=sd": "autoencoder.path=<folder> is needed",
        "guidance.scale=-1": "guidance.scale must",
        "eval.batch_size=0": "eval.batch_size must be at least 1, got 0",
        "logger.every=0": "logger.every must be at least 1, got 0",
        "checkpoint.every=0": "checkpoint.every and checkpoint.keep must be at least 1, got 0",
        "~schedule": "schedule: this stage needs a choice, schedule=...",
    }
    found = faults(*wanted)
    for override, start in wanted.items():
        assert [line for line in found if line.startswith(start)], (override, found)
    assert len(found) == len(wanted), found


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=4294967296", "seed: wanted a whole number from 0 to 4294967295, got 4294967296"),
        ("+shift=flux", "shift: choose it with shift@timestep.shift=..."),
        ("timestep.shift.value=-1", "timestep.shift.value must be positive, got -1"),
        ("prompts=3", "prompts: wanted a list of texts"),
        ("prompts=[]", "prompts: wanted a list of texts"),
        ("data=folder", "data.path: missing; give data.path=..."),
        ("data=folder data.path=/nowhere", "data.path: there is no folder /nowhere"),
        ("data.subset=nonsense", "data.subset must be one of"),
        (
            "+data.caption_weights={short:1}",
            "data.caption_weights needs one weight for each of short, sparse, long",
        ),
        ("data=mixture data.weights.curated=-1", "data.weights must not be negative"),
        ("data=mixture data.sources.curated.subset=x", "data.subset must be one of"),
        (
            "data=mixture +data.sources.curated.sizes=3",
            "data.sources.curated.sizes: unknown option; did you mean",
        ),
        (f"{BUCKETS} data.buckets.max_aspect=0.5", "data.buckets.max_aspect must be at least 1, got 0.5"),
        (
            f"{BUCKETS} data.buckets.multiple=12",
            "data.resolution=256 must be a multiple of data.buckets.mult",
        ),
        (
            f"{BUCKETS} data.buckets.multiple=4",
            "data.buckets.multiple must be a multiple of autoencoder.fact",
        ),
        (
            f"{BUCKETS} data.buckets.multiple=8 model.patch_size=2",
            "model: it does not take latents 5 x 31 x 33 with texts",
        ),
        (f"{BUCKETS} +data.buckets.least_=1", "data.buckets.least_: unknown option; did you mean data.bucke"),
        ("data.batch_size=0", "data.batch_size must be at least 1, got 0"),
        (
            "stage=encoder trainer.accumulate=2",
            "trainer: stage=encoder compares all images and texts of a batch",
        ),
        (
            "stage=encoder trainer.devices=2",
            "trainer: stage=encoder compares all images and texts of a batch",
        ),
        (
            "stage=encoder trainer.num_nodes=2",
            "trainer: stage=encoder compares all images and texts of a batch",
        ),
        ("model=two_towers", "model: stage=pretrain cannot use TwoTowers"),
        ("loss=contrastive", "loss: stage=pretrain cannot use Contrastive"),
        ("loss=reconstruction", "loss: stage=pretrain cannot use Reconstruction"),
        ("loss=adversarial_reconstruction", "loss: stage=pretrain cannot use AdversarialReconstruction"),
        ("autoencoder=kl_tiny", "autoencoder: this one has random weights"),
        (
            "stage=autoencoder stage.principal=9",
            "stage.principal=9: must be from 1 to autoencoder.channels=8",
        ),
        ("trainer=inference", "trainer: stage=pretrain cannot use Device"),
        ("model.in_channels=4", "model: it does not take latents 5 x 8 x 8 with texts"),
        ("model.text_dim=7", "model: it does not take latents 5 x 8 x 8 with texts"),
        (
            "model.learn_sigma=true",
            "model: its output has 10 channels, the latents have 5; no objective reads a variance: "
            "model.learn_sigma=false",
        ),
        (f"{TREAD} model.routing.share=0.999", "model.routing.share=0.999 leaves none of 64 tokens"),
        (f"{TREAD} model.routing.share=1", "model.routing.share must lie in [0, 1), got 1"),
        (
            f"{TREAD} model.routing.last=9",
            "model.routing leaves tokens out of the blocks behind first=1 up to la",
        ),
        (
            f"{TREAD} +model.routing.shar=1",
            "model.routing.shar: unknown option; did you mean model.routing.shar",
        ),
        (f"{TREAD} model.skips=true model.routing.last=4", "model.skips joins a block to its mirror image"),
        (
            f"{TREAD} terms=[repa,dispersive]",
            "terms.dispersive.tap=block2 holds other tokens of each image",
        ),
        (
            "model=dit_tiny routing@model.routing=sprint model.routing.share=0.6",
            "model.routing.share=0.6 of squares of 2 x 2 tokens is no whole number",
        ),
        ("model=unet_tiny +model.routing.share=1", "model.routing: unknown option"),
        (
            "path=scaled_linear path.zero_terminal_snr=true prediction=eps loss=diffusion",
            "prediction=Eps on path=Discrete says nothing about the data at t = 1: set sampler.grid.start",
        ),
        ("recipe=reg terms=[repa]", "terms: model.class_dim is trained by terms=[reg] alone"),
        ("recipe=reg model.class_channels=1", "autoencoder: these latents carry a vector of 96 numbers in 2"),
        ("autoencoder=scenes_reg", "autoencoder: these latents carry a vector of 96 numbers in 2"),
        (
            "recipe=reg autoencoder=scenes model.class_dim=9",
            "model.class_dim=9: no vector travels with these",
        ),
        ("recipe=reg autoencoder.vae.path=/nowhere", "autoencoder.vae.path: there is no folder /nowhere"),
        (
            "recipe=reg autoencoder.encoder.path=/nowhere",
            "autoencoder.encoder.path: there is no folder /nowh",
        ),
        ("recipe=reg features@autoencoder.encoder=dinov2_b", "autoencoder.encoder.path=<folder> is needed"),
        ("terms=[repa] features@terms.repa.encoder=dinov2_b", "terms.repa.encoder.path=<folder> is needed"),
        (
            f"{ALIGNED} features@loss.latent_alignment.encoder=dinov2_b",
            "loss.latent_alignment.encoder.path=<folder> is needed",
        ),
        (
            f"{ALIGNED} loss.latent_alignment.encoder.path=/nowhere",
            "loss.latent_alignment.encoder.path: there is no folder",
        ),
        ("eval.nfe_steps=8", "eval.nfe_steps: wanted a list of int, got 8"),
        (
            "stage=sample init_from=RUN prompts=[a] stage.negative_prompts=b",
            "stage.negative_prompts: wanted a list of str or null, got 'b'",
        ),
        ("recipe=reg autoencoder.channels=null", "autoencoder.channels: wanted int, got None"),
        ("recipe=reg autoencoder.encoder=null", "autoencoder.encoder: wanted collections.abc.Callable"),
        ("recipe=reg autoencoder.vae=null", "autoencoder.vae: wanted Autoencoder, got None"),
        ("recipe=reg autoencoder@autoencoder.vae=kl_tiny", "autoencoder.vae: this one has random weights"),
        (
            "recipe=reg path=ve loss=diffusion weighting@loss.weighting=edm",
            "terms=[reg] regresses on Velocity on path=VE",
        ),
        ("terms=[reg]", "terms.reg needs latents that carry a vector"),
        ("optimizer=adamw optimizer.betas=[0.9]", "optimizer.betas must be two numbers in [0, 1), got [0.9]"),
        ("optimizer.betas=[]", "optimizer.betas must be two numbers in [0, 1), got []"),
        (
            "recipe=reg curriculum=resolution",
            "curriculum.phases.low: model: it does not take latents 7 x 4 x 4",
        ),
        ("optimizer.betas=[0.9]", "optimizer.betas must be two numbers in [0, 1), got [0.9]"),
        ("guidance.scale=inf", "guidance.scale: wanted a finite number, got inf"),
        ("optimizer.betas=[0.9,nan]", "optimizer.betas: wanted a finite number, got nan"),
        ("sampler.grid.shift=inf", "sampler.grid.shift: wanted a finite number, got inf"),
        ("stage.condition_dropout=0", "stage.condition_dropout=0: the model never meets the empty text"),
        ("~model", "model: this stage needs a choice, model=..."),
        ("~seed", "seed: this option is needed: a whole number"),
        ("run_dir=", "run_dir: wanted a folder, got ''"),
        ("data.val_size=0", "data.val_size must be from 1 to"),
        (
            "model=dit_tiny model.patch_size=3",
            "model: latents of 8x8 cannot be cut into patches of model.patch_size=3",
        ),
        ("timestep=log_normal path=trig", "timestep: log_normal knows the noise levels of path=linear"),
        ("sampler=sde sampler.diffusion=path", "sampler.diffusion=path is infinite at the first time, 1"),
        ("path=vp_cosine", "loss=FlowMatching regresses on Velocity on path=VPCosine"),
        ("optimizer=schedule_free", "schedule: optimizer=schedule_free averages its steps"),
        ("optimizer=schedule_free schedule=cosine", "schedule: optimizer=schedule_free averages its steps"),
        ("stage=autoencoder optimizer=schedule_free", "schedule: optimizer=schedule_free averages its steps"),
        ("guidance=early", "guidance=early guides by an early snapshot of this run: ema.snapshot_at=0.25"),
        ("guidance=autoguidance guidance.path=/nowhere", "guidance.path: there is no folder /nowhere"),
        ("guidance=autoguidance guidance.path=/ guidance.scale=-1", "guidance.scale must not be negative"),
        ("stage=sample", "init_from: this stage needs a run or export folder"),
    ],
)
def test_a_fault_is_named(override, line):
    found = faults(*override.split(" "))
    assert any(item.startswith(line) for item in found), found


@pytest.mark.parametrize(
    ("stage", "override", "line"),
    [
        ("sample", "model=dit_tiny", "model: this stage does not use it"),
        ("sample", "eval=quick", "eval: this stage does not use it"),
        ("sample", "stage.copies=0", "stage.copies must be from 1 to 65536, got 0"),
        ("sample", "stage.weights=best", "stage.weights must be ema, raw or posthoc:<sigma_rel>"),
        ("evaluate", "stage.weights=posthoc:0.3", "stage.weights must be ema, raw or posthoc:<sigma_rel>"),
        ("sample", "trainer.devices=2", "trainer.devices must be 1 in this stage, got 2"),
        (
            "sample",
            "trainer.precision=fp8",
            "trainer.precision must be one of auto, bf16, fp32 or null, got fp8",
        ),
        ("sample", "trainer=default", "trainer: stage=sample cannot use TrainerOptions"),
        ("evaluate", "prompts=[a]", "prompts: this stage does not use it"),
        ("export", "eval=quick", "eval: this stage does not use it"),
        ("evaluate", "loss=flow_matching", "loss: this stage does not use it"),
        (
            "evaluate",
            "eval.heldout_images=1",
            "eval.reference_images and eval.heldout_images must be 0 or at",
        ),
        ("autoencoder", "prompts=[a]", "prompts: this stage does not use it"),
        ("encoder", "init_from=a", "init_from: this stage does not use it"),
        ("autoencoder", "curriculum=captions", "curriculum: this stage does not use it"),
        ("autoencoder", "sampler=heun", "sampler: this stage does not use it"),
        ("autoencoder", "autoencoder=identity", "autoencoder: stage=autoencoder cannot use Identity"),
        (
            "autoencoder",
            "data=folder_buckets data.path=/",
            "data.buckets: stage=autoencoder learns from squares",
        ),
        ("autoencoder", "loss=contrastive", "loss: stage=autoencoder cannot use Contrastive"),
        (
            "adversarial",
            "loss.discriminator.network.layers=5",
            "loss.discriminator.network.layers=5 wants images with",
        ),
        ("adversarial", "loss.largest_ratio=0", "loss.perceptual_weight, loss.adversarial_weight and"),
        ("adversarial", "perceptual@loss.perceptual=lpips", "loss.perceptual.path=<file> is needed: nothing"),
        (
            "adversarial",
            "+loss.discriminator.network.layer=3",
            "loss.discriminator.network.layer: unknown option; did you mean loss.discriminator.network.layers?",
        ),
        (
            "adversarial",
            "loss.discriminator.network.groups=7",
            "loss.discriminator.network: width, layers and",
        ),
        ("encoder", "loss=adversarial_reconstruction", "loss: stage=encoder cannot use Adversarial"),
        ("encoder", "loss=reconstruction", "loss: stage=encoder cannot use Reconstruction"),
        ("encoder", "stage.reading=-1", "stage.reading must not be negative, got -1"),
        ("encoder", "stage.tokenizer.length=0", "stage.tokenizer takes a positive vocab_size and length"),
        ("encoder", "+stage.tokenizer.size=3", "stage.tokenizer takes a positive vocab_size and length"),
    ],
)
def test_a_stage_refuses_what_it_does_not_read(stage, override, line):
    found = faults(*STAGES[stage], *override.split(" "))
    assert len(found) == 1
    assert found[0].startswith(line)


def test_a_model_that_trains_on_has_met_the_empty_text_before():
    model = checked(["model=dit_tiny"])
    for stage in ("sft", "preference data=scenes_preferences"):
        options = [*f"stage={stage}".split(), "init_from=x", "stage.condition_dropout=0"]
        given = {name: value for name, value in checked(options).items() if value is not None}
        faults = build(given["stage"]).unfit({**model, **given, "data": model["data"]}, ())
        assert [line for line in faults if "empty text" in line] == []


def test_a_resolution_that_the_autoencoder_cannot_divide_does_not_hide_other_faults():
    found = faults("data.resolution=60", "ema.decay=2")
    assert (
        "model.input_size: 60 is not a multiple of 8: data.resolution must be one of the autoencoder's factor"
        in found
    )
    assert "ema.decay must be in [0, 1), got 2" in found


def test_all_faults_of_a_curriculum_are_listed_at_once_with_their_dotted_paths():
    wanted = {
        "+curriculum.phases.low.data.resolutoin=32": (
            "curriculum.phases.low.data.resolutoin: unknown option; did you mean "
            "curriculum.phases.low.data.resolution?"
        ),
        "+curriculum.phases.low.data.size=many": "curriculum.phases.low.data.size: wanted int, got 'many'",
        "+curriculum.phases.low.data.batch_size=8": (
            "curriculum.phases.low.data.batch_size: the run has one for all phases, data.batch_size"
        ),
        "+curriculum.phases.low.timestep.mena=1": (
            "curriculum.phases.low.timestep.mena: unknown option; did you mean curriculum.phases.low.timestep.mean?"
        ),
        "+curriculum.phases.low.condition_dropout=2": (
            "curriculum.phases.low.condition_dropout must be in [0, 1], got 2"
        ),
        "+curriculum.phases.full.shares=1": (
            "curriculum.phases.full.shares: unknown option; did you mean curriculum.phases.full.share?"
        ),
        "+curriculum.phases.full.timestep=3": "curriculum.phases.full.timestep: wanted options of timestep, got 3",
        "curriculum.phases.full.share=-1": (
            "curriculum.phases.full.share must be a positive share of trainer.max_steps, got -1"
        ),
    }
    found = faults("curriculum=resolution", *wanted)
    for line in wanted.values():
        assert line in found, (line, found)
    assert len(found) == len(wanted), found


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("curriculum.phases.low.share=0.4", "curriculum.phases: the shares must add up to 1, got 0.4 + 0.5"),
        ("trainer.max_steps=1", "curriculum.phases.low.share=0.5 is no whole step of trainer.max_steps=1"),
        (
            "+curriculum.phases.full.data.resolution=128",
            "curriculum.phases.full.data.resolution=128, but the model is made for data.resolution=64",
        ),
        (
            "curriculum.phases.low.data.resolution=48",
            "curriculum.phases.low: data.resolution must be one of (32, 64, 128, 256) for scenes, got 48",
        ),
        (
            "model.patch_size=8",
            "curriculum.phases.low: model: it does not take latents 5 x 4 x 4 with texts",
        ),
        (
            "curriculum.phases.low.timestep.shift=-1",
            "curriculum.phases.low: timestep.shift must be positive, got",
        ),
        ("timestep.shift=null", "timestep.shift: wanted float, got None"),
        ("ema.decay=3", "ema.decay must be in [0, 1), got 3"),
    ],
)
def test_a_curriculum_that_does_not_fit_its_run_is_refused_by_name(overrides, line):
    small = [] if "patch_size" in overrides else ["model.patch_size=1"]
    found = faults("curriculum=resolution", "model=dit_nano", *small, overrides)
    assert len(found) == 1 and found[0].startswith(line), found


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            "model=dit_tiny",
            "curriculum.phases.full.routing_share: this model leaves no tokens out; choose a rule",
        ),
        ("model=unet_tiny", "curriculum.phases.full.routing_share: this model leaves no tokens out"),
        (
            "model=dit_nano routing@model.routing=none",
            "curriculum.phases.full.routing_share: this model leaves no tokens out",
        ),
        (
            f"{TREAD} curriculum.phases.full.routing_share=1",
            "curriculum.phases.full.routing_share must be in [0, 1), got 1",
        ),
        (
            f"{TREAD} +curriculum.phases.masked.routing_share=-0.1",
            "curriculum.phases.masked.routing_share must be in [0, 1), got -0.1",
        ),
        (
            f"{TREAD} curriculum.phases.full.routing_share=most",
            "curriculum.phases.full.routing_share must be in [0, 1), got 'most'",
        ),
        (
            f"{TREAD} curriculum.phases.full.routing_share=0.999",
            "curriculum.phases.full: model.routing.share=0.999 leaves none of 64 tokens",
        ),
    ],
)
def test_a_share_of_tokens_that_a_phase_cannot_leave_out_is_refused_by_name(overrides, line):
    found = faults("curriculum=unmask", *overrides.split())
    assert len(found) == 1 and found[0].startswith(line), found


def test_a_phase_of_a_group_with_a_fault_of_its_own_waits_for_its_turn():
    found = faults("curriculum=resolution", "+data.nonsense=1", "+curriculum.phases.low.data.nonsense=1")
    assert [line.split(":")[0] for line in found] == ["data.nonsense"]


def test_a_fault_of_a_group_that_another_one_mentions_is_listed_once():
    assert faults("timestep.std=-1") == ["timestep.std must be positive, got -1"]
    assert len(faults("+timestep.nonsense=1")) == 1


def test_the_check_reads_no_weights_and_no_images(monkeypatch, tmp_path):
    def too_early(*_, **__):
        raise AssertionError("the check must not do this")

    monkeypatch.setattr("t2ilab.text.towers.TwoTowers.load", too_early)
    monkeypatch.setattr("diffusers.AutoencoderKL.from_pretrained", too_early)
    monkeypatch.setattr("t2ilab.data.scenes.dataset.SceneSource.images", too_early)
    monkeypatch.setattr("t2ilab.data.folder.FolderSource.__init__", too_early)
    checked(["model=dit_tiny"])
    checked(ALIGNED.split())
    place = "loss.latent_alignment.encoder"
    checked([*ALIGNED.split(), f"features@{place}=dinov2_b", f"{place}.path={tmp_path}"])
    checked(["model=dit_tiny", "data=folder", f"data.path={tmp_path}"])
    faults("data=folder", f"data.path={tmp_path}", "ema.decay=2")


def test_the_folders_of_a_mixture_are_looked_for_and_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr("t2ilab.data.folder.FolderSource.__init__", lambda *_, **__: pytest.fail("it read"))
    source = {"_target_": "t2ilab.data.sets.Folder", "_partial_": True, "path": str(tmp_path)}
    node = {
        "_target_": "t2ilab.data.mixture.Mixture",
        "sources": {"a": source},
        "weights": {"a": 1},
        "val": "a",
    }
    node |= {"resolution": 32, "batch_size": 8, "workers": 0}
    assert problems({"data": node}, trial=["data"]) == []
    node["sources"]["b"] = source | {"path": "/nowhere"}
    found = problems({"data": node}, trial=["data"])
    assert len(found) == 1 and found[0].startswith("data.sources.b.path: there is no folder /nowhere")


def test_a_folder_that_a_term_lacks_is_told_once_under_the_name_that_is_set():
    found = faults("terms=[repa]", "features@terms.repa.encoder=dinov2_b", "terms.repa.encoder.path=/nowhere")
    assert [line.partition(":")[0] for line in found] == ["terms.repa.encoder.path"]


def test_a_network_of_any_size_is_checked_without_its_memory():
    import torch

    made = []
    register = torch.nn.Module.register_parameter

    def noting(self, name, parameter):
        made.append(parameter is None or parameter.is_meta or parameter.numel() < 5)
        register(self, name, parameter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "register_parameter", noting)
        checked(["model=dit_b"])
    assert made
    assert all(made)


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif path[-1] not in ("_target_", "_partial_"):
        yield path


def owner(config, path):
    """The innermost node around a leaf and the argument of it that holds the leaf."""
    node, key, value = None, path[0], config
    for part in path:
        if is_node(value):
            node, key = value, part
        value = value[part]
    return node, key


SETTINGS = {"seed", "name", "run_dir", "init_from", "prompts", "runs", "chain"}


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_of_the_composed_config_is_an_argument_or_a_known_setting(stage):
    config = usual(stage)
    assert set(config) == SETTINGS | set(groups())
    for path in leaves(config):
        if path[0] in SETTINGS or config[path[0]] is None:
            continue
        node, key = owner(config, path)
        parameters = inspect.signature(locate(node["_target_"])).parameters
        assert key in parameters, ".".join(path)


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_is_read_by_some_line_of_the_package(stage):
    """An argument that nothing reads would be accepted and then ignored."""
    config, read = usual(stage), names_read()
    for path in leaves(config):
        node, key = owner(config, path)
        if node is not None and node["_target_"].startswith("t2ilab."):
            assert key in read, f"{'.'.join(path)} of {node['_target_']} is read nowhere"


@functools.cache
def names_read():
    """Names, attributes and subscripts that are read in the package, assignments to themselves left out."""
    found = set()
    for file in Path(t2ilab.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                found.add(node.slice.value)
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get" and node.args:
                found.add(getattr(node.args[0], "value", None))
    return found


def test_a_user_class_is_held_against_its_own_signature():
    node = {"_target_": "collections.Counter", "_partial_": True}
    assert problems({"model": node}) == []
    found = problems({"model": {"_target_": "fractions.Fraction", "numerater": 3}})
    assert found == ["model.numerater: unknown option; did you mean model.numerator?"]
    assert problems({"model": {"_target_": "nowhere.Net"}})[0].startswith("model._target_: nowhere.Net")


def test_missing_arguments_are_named_unless_the_node_is_partial():
    node = {"_target_": "t2ilab.sampling.ode.Heun"}
    assert problems({"sampler": node}) == ["sampler.grid: missing"]
    assert problems({"sampler": node | {"_partial_": True}}) == []


def test_a_plain_value_in_the_place_of_a_group_is_refused():
    assert problems({"model": "dit"}) == ["model: wanted a choice of conf/model, got 'dit'"]


def test_whole_numbers_are_welcome_where_fractions_are_wanted_but_not_the_reverse():
    path = {"_target_": "t2ilab.core.path.VPLinear", "beta_min": 1, "beta_max": 20}
    assert problems({"path": path}) == []
    grid = {"_target_": "t2ilab.sampling.grid.Grid", "steps": 2.5}
    assert problems({"grid": grid}) == ["grid.steps: wanted int, got 2.5"]


def test_suggestions_find_the_nearest_known_key():
    known = ["model", "trainer", "trainer.max_steps", "data.batch_size"]
    assert suggestion("modle", known) == "model"
    assert suggestion("trainer.max_step", known) == "trainer.max_steps"
    assert suggestion("batch_size", known) == "data.batch_size"
    assert suggestion("zzz", known) is None


def test_compose_gives_plain_values_only():
    def plain(value):
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(item) for key, item in value.items())
        if isinstance(value, list):
            return all(plain(item) for item in value)
        return value is None or type(value) in (str, int, float, bool)

    assert plain(compose([]))
    assert plain(usual("pretrain"))


@pytest.mark.parametrize("value", ["data.path='x\udcfcy'", "data.caption='x\udcfcy'"])
def test_bytes_that_are_not_utf_8_are_named_as_such(value):
    (fault,) = faults("data=folder", *(["data.path=/"] if "caption" in value else []), value)
    assert "\\xfc" in fault and "not UTF-8" in fault


def test_models_for_a_stage_that_compares_runs_are_refused_once():
    assert faults("stage=compare", "runs=[A,B]", "init_from=[A,B]") == [
        "init_from: this stage does not use it"
    ]
