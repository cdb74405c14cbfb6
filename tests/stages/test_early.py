"""What the options, the manifest or a look at the data can tell is said before anything heavy has started."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from t2ilab.config.composition import checked
from t2ilab.data.scenes.dataset import SceneSource
from t2ilab.data.sets import Scenes
from t2ilab.export.manifest import MANIFEST
from t2ilab.latents.identity import Identity
from t2ilab.latents.kl import KL
from t2ilab.measuring import carries
from t2ilab.pipeline import TextToImage
from t2ilab.stages import (
    assembly,
    autoencoder,
    class_images,
    evaluate,
    export,
    pairs,
    personalize,
    preference,
    reward,
    sample,
)
from t2ilab.training import latent_rows
from t2ilab.training.reconstruction import INHERITED
from t2ilab.training.start import Start
from tests.photographs import folder_of_shapes, photograph
from tests.runs import FOUNDATION, crash_here, run_here
from tests.tiny import CPU, command, finished_run, workplace

NOTHING = [
    f"eval.{name}=0"
    for name in (
        "prompts_per_task",
        "compose_per_task",
        "caption_prompts",
        "reference_images",
        "heldout_images",
    )
]
PERSONAL = ("debug=tiny", "stage=personalize", "data.resolution=32", "data.batch_size=4", "data.val_size=4")
COMPARED = ("debug=tiny", "stage=preference", "data=scenes_preferences", "data.size=12", "data.val_size=2")


def heavy(*_, **__):
    raise AssertionError("something heavy has started")


@pytest.fixture
def _light(monkeypatch, finished):
    """From here on nothing is encoded or drawn."""
    for module in (latent_rows, preference, reward):
        monkeypatch.setattr(module, "open_or_fill", heavy)
    monkeypatch.setattr(class_images, "draw", heavy)
    monkeypatch.setattr(TextToImage, "trajectory", heavy)


pytestmark = pytest.mark.usefixtures("_light")


@pytest.fixture(scope="module")
def finished():
    """A model, made while things may be heavy; read only."""
    return finished_run()


@pytest.fixture(scope="module")
def drawn():
    """Noise and images of six prompts; read only."""
    run = workplace() / "early-pairs"
    few = ("stage.prompts=6", "stage.images=2", "stage.skip_evaluated=false")
    command("stage=pairs", "reward=none", f"init_from={finished_run()}", *few, run_dir=run)
    return run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder of photographs and the options of a run on them, which died in the folder beside."""
    place = tmp_path_factory.mktemp("stopped")
    photos = folder_of_shapes(place / "photos", 6)
    options = ("data=folder", f"data.path={photos}", "data.val_share=0.3", "autoencoder=identity")
    crash_here(place / "run", 3, *options)
    return place, options


def changed(run, place, **facts):
    """A copy of a run whose manifest says something else."""
    shutil.copytree(run, place)
    path = place / "export" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return place


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("data=folder", "data.path=."),
        ("stage=sft", "init_from=somewhere"),
        ("stage=preference", "init_from=somewhere", "data=scenes_preferences"),
        ("stage=evaluate", "init_from=somewhere", "data=scenes"),
    ],
)
def test_a_plan_that_measures_nothing_is_refused_by_the_options(options):
    with pytest.raises(
        ValueError, match=r"eval: nothing would be measured: eval\..*eval\.heldout_images=0; raise"
    ):
        checked([*options, *NOTHING])


@pytest.mark.parametrize(
    ("data", "left"), [((), "caption_prompts"), (("data=folder", "data.path=."), "prompts_per_task")]
)
def test_prompts_that_the_data_have_none_of_are_nothing_to_measure(data, left):
    plan = [option for option in NOTHING if left not in option]
    with pytest.raises(ValueError, match="eval: nothing would be measured"):
        checked([*data, *plan])
    checked([*data, *plan, "eval.heldout_images=2"])


def test_a_plan_that_measures_nothing_of_the_data_of_an_export_is_refused_before_an_image_is_read(
    tmp_path, monkeypatch
):
    plan = ["eval=quick", *NOTHING, "eval.caption_prompts=4"]  # those are for data without a judge
    with pytest.raises(ValueError, match="eval: nothing would be measured"):
        command(*COMPARED, f"init_from={finished_run()}", *plan, run_dir=tmp_path / "preferred")
    monkeypatch.setattr(SceneSource, "images", heavy)
    with pytest.raises(ValueError, match=r"eval\.prompts_per_task=0, eval\.compose_per_task=0"):
        command("stage=evaluate", f"init_from={finished_run()}", *plan, run_dir=tmp_path)


def test_what_measures_and_what_draws_is_read_before_the_images_are_encoded(tmp_path):
    (tmp_path / "none").mkdir()
    rewards = ["+reward@eval.rewards.mine=aesthetic", f"eval.rewards.mine.path={tmp_path / 'none'}"]
    rewards += ["eval.rewards.mine.clip.path=assets/encoder"]
    for number, (options, said) in enumerate(
        [
            (rewards, r"wanted one file of weights"),
            (
                ["guidance=autoguidance", f"guidance.path={tmp_path / 'none'}"],
                r"guidance\.path=.*neither it nor",
            ),
            (["guidance=embedded"], "this network is not told the scale"),
            (["guidance=cfg_zero", "sampler.grid.steps=1"], r"guidance\.zero_steps=1 leaves nothing"),
        ]
    ):
        with pytest.raises(ValueError, match=said):
            command("debug=tiny", *options, run_dir=tmp_path / str(number))


def test_weights_of_a_term_are_read_before_the_images_are_encoded(tmp_path):
    torch.save({}, tmp_path / "vgg.pth")
    term = ["terms=[perceptual]", "perceptual@terms.perceptual.distance=lpips"]
    term += [f"terms.perceptual.distance.path={tmp_path / 'vgg.pth'}"]
    options = ("debug=tiny", "stage=distill", "loss=lcm", f"init_from={finished_run()}", *term)
    with pytest.raises(ValueError, match="does not hold the weights of"):
        command(*options, run_dir=tmp_path / "run")


def test_other_images_than_before_are_refused_before_they_are_encoded(stopped):
    place, options = stopped
    photograph(place / "photos/new.png", 99)
    (place / "photos/new.txt").write_text("a new photograph")
    with pytest.raises(ValueError, match="cannot resume: the training data or its order has changed"):
        run_here(place / "run", *options)


def test_what_no_subject_can_be_learned_with_is_said_before_its_class_is_drawn(tmp_path, monkeypatch):
    base = (*PERSONAL, f"init_from={finished_run()}")
    with pytest.raises(ValueError, match=r"stage\.text_lr: RandomText has no weights that could train"):
        command(*base, "stage.text_lr=1e-5", run_dir=tmp_path / "text")
    with monkeypatch.context() as patch:
        patch.setattr(carries, "lost_words", lambda *_: ({"zwx"}, {"zwx"}))
        with pytest.raises(
            ValueError, match="the text encoder of init_from makes nothing of the new words zwx"
        ):
            command(*base, run_dir=tmp_path / "words")
    with monkeypatch.context() as patch:
        patch.setattr(Identity, "decode", lambda self, z, clamp=True: torch.zeros_like(z))
        with pytest.raises(ValueError, match="less than their mean colour alone") as told:
            command(*base, run_dir=tmp_path / "images")
        assert INHERITED in str(told.value), "the autoencoder of a finished model cannot be chosen"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["stage.subjects=[{path:nowhere,class_name:cat}]"], r"stage\.subjects\.path: there is no folder"),
        (
            ["stage.subjects=[{path:.,class_name:cat,token:sks}]", "stage.token=sks"],
            r"stage\.subjects: sks is the word of two subjects; give each",
        ),
        (["data.batch_size=1"], r"data\.batch_size=1 is too small .*or set loss\.prior_weight=0"),
        (
            ["data.batch_size=2", "stage.subjects=[{path:.,class_name:cat},{path:.,class_name:cat}]"],
            r"subjects \(3\), half of their classes \(2\)",
        ),
        (["data.caption=a photo"], r"data\.caption: captions .* not read, every image is 'a zwx dog'"),
        (["data.caption_prefix=sks"], r"data\.caption_prefix: captions of the subject are not read"),
    ],
)
def test_the_options_of_a_personalisation_tell_what_cannot_be(options, said):
    own = ["stage=personalize", "init_from=somewhere", "data=folder", "data.path=.", "stage.class_name=dog"]
    with pytest.raises(ValueError, match=said):
        checked([*own, *options])
    checked([*own, "data.batch_size=2"])


def test_folders_of_other_class_images_and_of_images_of_ones_own_are_refused_before_any_is_drawn(tmp_path):
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        for number in range(3):
            photograph(tmp_path / name / f"{number}.png", number)
    (tmp_path / "kept/cat").mkdir(parents=True)
    photograph(tmp_path / "kept/cat/0.jpg", 0)  # of one's own, which would lie there unread
    options = ("data=folder", f"data.path={tmp_path / 'dog'}", "data.val_share=0.3", "data.batch_size=4")
    more = ("stage.class_name=dog", f"stage.subjects=[{{path:{tmp_path / 'cat'},class_name:cat}}]")
    kept = f"stage.class_folder={tmp_path / 'kept'}"
    with pytest.raises(ValueError, match=r"stage\.class_folder=.*cat holds other files .* not for your own"):
        command(*PERSONAL[:2], *options, *more, kept, f"init_from={finished_run()}", run_dir=tmp_path / "run")


def test_prompts_that_a_reward_cannot_score_are_refused_before_one_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "training_prompts", lambda *_: (["a red circle", "a photo of a dog"], 0))
    for choice in ("judge", "combined"):
        with pytest.raises(
            ValueError, match="the judge knows prompts of the synthetic data set alone, which 'a ph"
        ):
            command(
                "stage=pairs", f"reward={choice}", f"init_from={finished_run()}", run_dir=tmp_path / choice
            )


def test_comparisons_of_which_none_is_decided_are_refused_before_a_reward_learns(tmp_path):
    options = ("stage=reward", *FOUNDATION, "data.size=8", "data.val_size=8", "data.ties=1000")
    with pytest.raises(ValueError, match=r"data: all 8 held-out comparisons are ties.*data\.val_size"):
        command(*options, run_dir=tmp_path)


def test_a_model_that_a_reward_cannot_be_measured_on_is_refused_before_the_data_are_opened(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(reward, "build", heavy)
    nodes = json.loads((finished_run() / "export" / MANIFEST).read_text())["nodes"]
    nodes["model"]["_target_"] = "os.system"
    foreign = changed(finished_run(), tmp_path / "foreign", nodes=nodes)
    with pytest.raises(
        ValueError, match=r"stage\.samples_from=.* names what is not a class of t2ilab: os\.system"
    ):
        command("stage=reward", f"stage.samples_from={foreign}", run_dir=tmp_path / "run")


def test_pairs_of_which_evaluations_draw_every_prompt_are_refused_before_they_are_encoded(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(preference, "evaluated_texts", lambda _: Everything())
    with pytest.raises(ValueError, match=r"evaluations draw the prompts of all \d+ pairs"):
        command(*COMPARED, f"init_from={finished_run()}", run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"data: all 12 comparisons are ties"):
        command(*COMPARED, "data.ties=1000", f"init_from={finished_run()}", run_dir=tmp_path / "ties")


class Everything:
    """A set that holds all texts."""

    def __contains__(self, text):
        return True


def test_pairs_that_do_not_suit_a_model_are_refused_before_their_files_are_read(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("t2ilab.pairs.check_files", heavy)
    base = ("debug=tiny", f"init_from={finished_run()}", "data=pairs", "data.resolution=null")
    scored = changed(drawn, tmp_path / "scored", reward={"_target_": "t2ilab.rewards.judge.Judge"})
    small = changed(scored, tmp_path / "small", latent_shape=[3, 16, 16], resolution=16)
    parent = {"path": "elsewhere", "digest": "another", "stage": "pretrain"}
    other = changed(drawn, tmp_path / "other", parents=[parent])
    for number, (stage, folder, said) in enumerate(
        [
            ("stage=preference", drawn, "drawn with reward=null"),
            ("stage=preference", small, "are images of 16 px, the model of init_from draws 32 px"),
            ("stage=distill loss=reflow", scored, "a reward chose these images"),
            ("stage=distill loss=reflow", other, "elsewhere drew these pairs, which is another model"),
        ]
    ):
        with pytest.raises(ValueError, match=said):
            command(*base, *stage.split(), f"data.path={folder}", run_dir=tmp_path / str(number))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("stage=sft", "adapter=lora", "adapter.targets=[nowhere]"), "no layer ends in nowhere"),
        (("stage=continue", "data.batch_size=2", "stage.replay=0.1"), "a batch of 2 has no row for each"),
        (("stage=sft",), "nothing that says with which options"),
        (("stage=sft",), "has changed since it was exported"),
        ((*PERSONAL, "data=subject", "loss.prior_weight=0"), "has changed since it was exported"),
    ],
)
def test_options_and_the_folder_are_checked_before_the_files_of_a_model_are_read(
    options, said, tmp_path, monkeypatch
):
    parent, run = shutil.copytree(finished_run(), tmp_path / "parent"), tmp_path / "run"
    weights = parent / "export/transformer/raw.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    for module, name in ((personalize, "subjects_of"), (assembly, "build")):
        monkeypatch.setattr(module, name, heavy)
    if "nothing" in said:
        run.mkdir()
        (run / "finished.json").write_text("{}")
    with pytest.raises(ValueError, match=said):
        command("debug=tiny", *options, f"init_from={parent}", run_dir=run)


def test_processes_meet_before_they_read_the_files_of_a_model(monkeypatch):
    """They wait minutes for each other, which large files may take longer than."""
    order = []
    monkeypatch.setattr("t2ilab.training.start.meet", lambda: order.append("met"))
    opened = SimpleNamespace(check_files=lambda: order.append("read"))
    assert Start(opened, digest="").unchanged and order == ["met", "read"]


def test_a_model_that_lacks_a_file_is_refused_before_the_options_are_tried(tmp_path):
    run = shutil.copytree(finished_run(), tmp_path / "run")
    (run / "export/transformer/raw.safetensors").unlink()
    options = ("stage=sft", "adapter=lora", "adapter.targets=[nowhere]")
    with pytest.raises(ValueError, match=r"the export lacks transformer/raw\.safetensors"):
        command("debug=tiny", *options, f"init_from={run}", run_dir=tmp_path / "sft")


def test_a_term_that_looks_at_images_is_refused_where_there_are_latents(drawn):
    options = ["stage=distill", "init_from=somewhere", "loss=reflow", "data=pairs", f"data.path={drawn}"]
    with pytest.raises(ValueError, match="terms: repa look at images, and data=pairs hold latents"):
        checked([*options, "terms=[repa]"])


def test_a_share_of_old_images_without_a_row_in_a_batch_names_its_option(tmp_path):
    options = ("debug=tiny", "stage=continue", f"init_from={finished_run()}", "data.batch_size=2")
    with pytest.raises(ValueError, match=r"stage\.replay=0\.1: a batch of 2 has no row for each of new, old"):
        command(*options, "stage.replay=0.1", run_dir=tmp_path)


def test_what_a_folder_or_the_options_tell_is_said_before_a_model_is_read(tmp_path, monkeypatch):
    for module in (evaluate, export, pairs, sample):
        monkeypatch.setattr(module, "open_model", heavy)
    base, prompts = f"init_from={finished_run()}", "prompts=[a,b]"
    for stage in ("evaluate", "export", "pairs"):
        with pytest.raises(ValueError, match="holds a run of stage=pretrain"):
            command(f"stage={stage}", base, run_dir=finished_run())
    with pytest.raises(ValueError, match=r"stage\.negative_prompts must be one text or one for each of 2"):
        command("stage=sample", base, prompts, "stage.negative_prompts=[a,b,c]", run_dir=tmp_path)
    for options in ([base], ["init_from=[A,B]"], [base, "stage.adapter_scale=0.5"]):
        with pytest.raises(ValueError, match=r"stage\.format=kohya writes one adapter as it is"):
            command("stage=export", "stage.format=kohya", *options, run_dir=tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["guidance=early"], r"guidance=early needs the early snapshot"),
        (["guidance=embedded"], r"guidance=embedded: this network is not told the scale"),
        (
            ["sampler=euler", "sampler.grid.steps=4", "guidance=cfg_zero", "guidance.zero_steps=4"],
            r"guidance\.zero_steps=4 leaves nothing of the 4 steps",
        ),
        (
            ["guidance=autoguidance", "guidance.path=t2ilab"],
            r"guidance\.path=t2ilab: neither it nor its folder",
        ),
        (["guidance=none", "stage.negative_prompts=[a]"], r"stage\.negative_prompts take the place"),
    ],
)
def test_a_sampler_or_guidance_that_does_not_suit_is_refused_before_the_model_is_read(
    options, said, tmp_path, monkeypatch
):
    run = finished_run()
    monkeypatch.setattr("t2ilab.runs.finished_model.load", heavy)
    with pytest.raises(ValueError, match=said):
        command("stage=sample", f"init_from={run}", "prompts=[a]", *options, run_dir=tmp_path)


def test_images_of_another_size_are_refused_before_they_are_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(Scenes, "__init__", heavy)
    config = checked([*CPU, "stage=evaluate", f"init_from={finished_run()}", f"run_dir={tmp_path}"])
    large = {"_target_": "t2ilab.data.sets.Scenes", "resolution": 64}
    with pytest.raises(ValueError, match=r"set data\.resolution=32"):
        evaluate.run({**config, "command": "test", "data": large})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["data=folder", "data.path=.", "data.resolution=100"],
            "divisible by the autoencoder's factor 8, got 100",
        ),
        (
            [
                "loss=adversarial_reconstruction",
                "latent_alignment@loss.latent_alignment=va_vae",
                "stage.freeze_encoder=true",
            ],
            r"loss\.latent_alignment moves the encoder: set stage\.freeze_encoder=false",
        ),
    ],
)
def test_what_an_autoencoder_cannot_do_is_refused_by_the_options(options, said):
    with pytest.raises(ValueError, match=said):
        checked(["stage=autoencoder", *options])


def test_few_held_out_images_are_all_shown(tmp_path):
    shared = {
        "subset": "general",
        "resolution": 32,
        "caption_kinds": ["short"],
        "batch_size": 2,
        "workers": 0,
    }
    data = Scenes(size=4, val_size=3, seed=0, jitter=0.0, **shared)
    sizes = {"channels": 4, "factor": 8, "widths": [8, 8, 8], "layers": 1, "groups": 4, "patch": 2}
    autoencoder.image_pairs(KL(**sizes, attention=False).eval(), data, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").is_file()


def test_images_of_another_size_than_the_tower_are_refused_by_the_options():
    with pytest.raises(
        ValueError, match=r"model\.image_size=32: it has to be that of the images, data\.resolution=64"
    ):
        checked(["stage=encoder", "model.image_size=32"])
