"""A chain's command line: what is its own, and that the rest reaches the steps word for word."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from t2ilab.chain.command_line import PASSED, is_chain, quoted_list, sorted_out
from t2ilab.config.overrides import as_typed

ODD = [
    "a=1",
    "prompts=[\"a 'red' one\"]",
    r"x=a\b",
    r"x='a\'b'",
    "x=a\\\\",
    r"x=\'",
    "x={a:1,b:[c]}",
    "data.path='/a b/c=d,e'",
    "x=${seed}",
    "x='Käse ☃'",
]


@pytest.mark.parametrize("item", ODD)
def test_an_override_of_any_signs_reaches_a_step_word_for_word(item):
    (parsed,) = OverridesParser.create().parse_overrides([f"x={quoted_list([item, 'z=2'])}"])
    texts = [str(getattr(value, "text", value)) for value in parsed.value()]
    assert list(OmegaConf.create({"seed": 5, "x": texts}).x) == [item, "z=2"]


def test_own_options_stay_with_the_chain_and_all_others_go_to_its_steps():
    given = ["recipe=lifecycle", "seed=3", "chain.sft=[x=1]", "run_dir=a", "stage.replay=0.5", "model=unet_s"]
    assert sorted_out(given) == [
        "recipe=lifecycle",
        "chain.sft=[x=1]",
        "run_dir=a",
        f"{PASSED}={quoted_list(['seed=3', 'stage.replay=0.5', 'model=unet_s'])}",
    ]


def test_prompts_are_those_of_the_steps_and_of_the_page_that_compares_them():
    prompts = "prompts=[a red circle]"
    assert sorted_out(["recipe=lifecycle", prompts]) == [
        "recipe=lifecycle",
        prompts,
        f"{PASSED}={quoted_list([prompts])}",
    ]


def test_a_try_with_debug_has_a_folder_of_its_own_unless_it_is_named():
    assert "name=debug" in sorted_out(["recipe=lifecycle", "debug=tiny"])
    assert "name=debug" not in sorted_out(["recipe=lifecycle", "debug=tiny", "name=mine"])


@pytest.mark.parametrize("item", ["init_from=somewhere", "stage=sample"])
def test_what_a_chain_sets_itself_is_refused(item):
    with pytest.raises(ValueError, match=item.partition("=")[0]):
        sorted_out(["recipe=lifecycle", item])


def test_a_recipe_of_several_runs_is_told_from_others():
    assert is_chain(["recipe=lifecycle", "seed=1"])
    assert not is_chain(["recipe=scenes", "seed=1"])
    assert not is_chain(["seed=1"])


@pytest.mark.parametrize(("options", "chained"), [("recipe=ddpm,sit", False), ("recipe=lifecycle", True)])
def test_a_sweep_over_recipes_is_no_chain_unless_its_first_recipe_is_one(options, chained):
    assert is_chain([options, "seed=0,1"]) is chained


@pytest.mark.parametrize(
    ("typed", "items"),
    [
        ("[trainer.max_steps=100]", ["trainer.max_steps=100"]),
        ("[reward=learned, reward.path=/a/b]", ["reward=learned", "reward.path=/a/b"]),
        ("[prompts=[a,b],x={c:1,d:2}]", ["prompts=[a,b]", "x={c:1,d:2}"]),
        ("[prompts=['a, b'],x=1]", ["prompts=['a, b']", "x=1"]),
        ("['x=1','y=2']", ["x=1", "y=2"]),
        ("[]", []),
    ],
)
def test_the_overrides_of_one_step_need_no_quotes_of_their_own(typed, items):
    (given,) = as_typed([f"chain.sft={typed}"], sweep=False)
    (parsed,) = OverridesParser.create().parse_overrides([given])
    assert [str(getattr(value, "text", value)) for value in parsed.value()] == items


def test_what_is_no_list_of_overrides_is_refused_as_before():
    assert as_typed(["chain.sft=x=1"], sweep=False) == ['chain.sft="x=1"']
