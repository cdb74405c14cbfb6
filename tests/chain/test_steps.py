"""Which options reach which step of a chain, and what makes a step another one."""

import pytest

from t2ilab.chain import steps
from t2ilab.chain.options import ChainOptions

PLAN = {
    "first": {"overrides": ["stage=pretrain"]},
    "second": {"parents": {"init_from": "first"}, "overrides": ["stage=evaluate"]},
}


def plan(tmp_path, *given, **own):
    return steps.planned(
        {"stage": {"steps": PLAN, "overrides": list(given)}, "run_dir": str(tmp_path), "chain": own}
    )


def test_an_option_goes_to_every_step_whose_stage_reads_it(tmp_path):
    first, second = plan(tmp_path, "seed=3", "trainer.max_steps=5", "sampler=euler", "sampler.grid.steps=3")
    assert first.overrides == (
        "stage=pretrain",
        "seed=3",
        "trainer.max_steps=5",
        "sampler=euler",
        "sampler.grid.steps=3",
    )
    assert second.overrides == ("stage=evaluate", "seed=3", "sampler=euler", "sampler.grid.steps=3")


def test_an_option_of_one_step_goes_to_it_alone(tmp_path):
    first, second = plan(tmp_path, second=["eval=full"])
    assert first.overrides == ("stage=pretrain",)
    assert second.overrides == ("stage=evaluate", "eval=full")


def test_each_step_has_its_own_folder_and_starts_from_that_of_its_parent(tmp_path):
    first, second = plan(tmp_path / "a 'b', c=d")
    assert first.folder.name == "first"
    assert second.parents == {"init_from": first.folder}
    assert second.config()["init_from"] == str(first.folder)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("trainer.max_step=3", "did you mean trainer.max_steps"),
        ("model=dit_x", "did you mean model=dit_"),
        ("copies=3", "unknown option copies"),
        ("terms.repa.weight.value=1", "terms"),
    ],
)
def test_an_option_that_no_step_reads_is_refused(tmp_path, given, said):
    with pytest.raises(ValueError, match=said):
        plan(tmp_path, given)


def test_a_step_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"chain\.third: the steps of this chain are first, second"):
        plan(tmp_path, third=["seed=1"])


def test_a_fault_of_a_step_is_said_with_its_name(tmp_path):
    first, _ = plan(tmp_path, first=["trainer.max_steps=-1"])
    with pytest.raises(ValueError, match=r"step first: .*\n.*trainer.max_steps"):
        first.config()


def test_what_a_step_is_depends_on_options_and_parents_and_not_on_its_place(tmp_path):
    here, there = plan(tmp_path / "here")[1], plan(tmp_path / "there")[1]
    assert here.identity() == there.identity()
    assert plan(tmp_path / "here", second=["eval=full"])[1].identity()["config"] != here.identity()["config"]
    export = tmp_path / "here/first/export"
    export.mkdir(parents=True)
    (export / "t2ilab.json").write_text("{}")
    assert here.identity()["parents"] != there.identity()["parents"]


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({}, "no steps"),
        ({"A b": {}}, "small letters"),
        ({"a": {"parents": {"init_from": "b"}}, "b": {}}, "must name an earlier step"),
        ({"a": {"from": "b"}}, "takes overrides and parents"),
    ],
)
def test_a_chain_that_cannot_be_gone_through_is_refused(plan, said):
    with pytest.raises(ValueError, match=said):
        ChainOptions(name="chain", job="x.y", uses=[], steps=plan)
