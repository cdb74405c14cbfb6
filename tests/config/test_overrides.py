"""Overrides as people type them: paths with any character, and the home."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from t2ilab.config.composition import checked
from t2ilab.config.overrides import as_typed
from t2ilab.core.folders import expanded, local_folder

NAMES = [
    *("Fotos f\u00fcr \u00d6l", "\u5199\u771f", "my photos (2024)", "R&B", "a#1", "John's", 'the "best"'),
    *("lr=0.1", "50% off!", "[x]", "{y}", "a,b", "a:b", "100$", "2024", "true", "1e5", "a;b", "a|b", "*"),
    *("what?", "~tilde", "it's, (all) [of] it"),
]


def value_of(override):
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", ["/data/", ""])
def test_a_path_may_hold_any_character(name, folder):
    (override,) = as_typed([f"data.path={folder}{name}"], sweep=False)
    assert value_of(override) == folder + name


@pytest.mark.parametrize("name", ["my photos (2024)", "lr=0.1", "[x]", "a,b", "100$"])
def test_the_check_finds_a_folder_of_any_name(name, tmp_path):
    (tmp_path / name).mkdir()
    line = as_typed(["data=folder", f"data.path={tmp_path / name}", "model=dit_nano"], sweep=False)
    assert checked(line)["data"]["path"] == str(tmp_path / name)


@pytest.mark.parametrize(
    ("typed", "folders"),
    [
        ("[A,B]", ["A", "B"]),
        ("[RUN,FILE.safetensors]", ["RUN", "FILE.safetensors"]),
        ("[lo ra=1[x],'a, b', \"c d\"]", ["lo ra=1[x]", "a, b", "c d"]),
        ("[2024,true]", ["2024", "true"]),
    ],
)
@pytest.mark.parametrize("option", ["init_from", "runs"])
def test_a_list_of_folders_is_a_list(option, typed, folders):
    assert value_of(*as_typed([f"{option}={typed}"], sweep=False)) == folders


def test_a_stage_that_starts_from_one_model_says_how_several_become_one():
    with pytest.raises(
        ValueError, match=r"init_from: wanted a run .*one model: stage=export makes one of a mod"
    ):
        checked(as_typed(["stage=sft", "init_from=[A,B]"], sweep=False))


def test_a_folder_whose_name_looks_like_a_list_is_that_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[a,b]").mkdir()
    assert value_of(*as_typed(["init_from=[a,b]"], sweep=False)) == "[a,b]"


def test_several_lists_are_several_runs_where_a_sweep_is_asked_for():
    assert as_typed(["init_from=[a,b],[c,d]"], sweep=True) == ["init_from=[a,b],[c,d]"]


def test_the_home_is_written_as_a_tilde_in_a_list_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    line = as_typed(["stage=sample", "init_from=[~/a,~/b]", "prompts=[x]"], sweep=False)
    assert checked(line)["init_from"] == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_what_hydra_reads_stays_as_it_is():
    plain = [
        "optimizer.lr=1e-3",
        "model.widths=[64,128]",
        "+x.y={a:1}",
        "~schedule",
        "model=dit_tiny",
        "name=${seed}",
    ]
    plain += [
        "data.path='quoted, twice'",
        "init_from=null",
        "seed=0,1",
        "features@terms.repa.encoder=dinov2_b",
    ]
    assert as_typed(plain, sweep=True) == plain


def test_commas_in_a_path_are_several_runs_where_a_sweep_is_asked_for():
    assert as_typed(["data.path=a,b"], sweep=True) == ["data.path=a,b"]
    assert value_of(*as_typed(["data.path=a,b"], sweep=False)) == "a,b"


def test_a_text_that_cannot_be_read_is_that_text_and_held_against_what_is_wanted():
    line = as_typed(["prompts=a circle (red), it's", "model.widths=[64,128"], sweep=False)
    with pytest.raises(ValueError) as caught:
        checked(line)
    assert "prompts: wanted a list of texts" in str(caught.value)
    assert """prompts='["a circle (red), it'"'"'s"]'""" in str(caught.value)
    assert "model.widths: wanted" in str(caught.value)


def test_the_home_is_written_as_a_tilde_in_every_option_that_takes_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    line = [
        "data=folder",
        "data.path=~/mine",
        "run_dir=~/run",
        "guidance=autoguidance",
        "guidance.path=~/mine",
    ]
    config = checked(as_typed([*line, "model=dit_nano", "guidance.path=~/mine"], sweep=False))
    assert config["data"]["path"] == config["guidance"]["path"] == str(tmp_path / "mine")
    assert config["run_dir"] == str(tmp_path / "run")
    assert as_typed(["hydra.sweep.dir=~/both"], sweep=True) == [f"hydra.sweep.dir={tmp_path}/both"]
    assert local_folder("~/mine", "data.path") == tmp_path / "mine"
    assert expanded("~nobody-of-this-name/x") == "~nobody-of-this-name/x"


def test_a_prompt_keeps_its_tilde():
    config = checked(as_typed(["stage=sample", "init_from=~/run", "prompts=['~ a tilde']"], sweep=False))
    assert config["prompts"] == ["~ a tilde"]
    assert not config["init_from"].startswith("~")


def test_a_name_that_is_too_long_for_the_disk_is_no_folder():
    with pytest.raises(ValueError, match=r"data.path: there is no folder"):
        local_folder("x" * 300, "data.path")


def test_no_reward_may_be_said_by_null():
    (said,) = as_typed(["reward=null"], sweep=False)
    assert checked(["stage=pairs", "init_from=somewhere", said])["reward"]["_target_"].endswith("NoReward")
