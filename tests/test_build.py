"""From config nodes to objects."""

import functools

import pytest

from t2ilab.build import arguments, build, is_node, locate, targets, with_numbers
from t2ilab.core.path import VPLinear
from t2ilab.runs.record import differences
from t2ilab.sampling.ode import Heun

GRID = {"_target_": "t2ilab.sampling.grid.Grid", "steps": 3, "shift": 1.0, "start": 1.0, "end": 0.0}


def test_a_node_becomes_its_object_with_its_arguments():
    path = build({"_target_": "t2ilab.core.path.VPLinear", "beta_min": 0.2, "beta_max": 10.0})
    assert isinstance(path, VPLinear)
    assert (path.beta_min, path.beta_max) == (0.2, 10.0)


def test_nodes_inside_a_node_are_built_first():
    sampler = build({"_target_": "t2ilab.sampling.ode.Heun", "grid": GRID})
    assert isinstance(sampler, Heun)
    assert sampler.grid.steps == 3


def test_nodes_in_lists_and_plain_dicts_are_built():
    made = build({"_target_": "builtins.dict", "many": [GRID, 7], "named": {"grid": GRID}})
    assert made["many"][0].steps == 3
    assert made["many"][1] == 7
    assert made["named"]["grid"].steps == 3


def test_a_partial_node_waits_for_the_rest_of_its_arguments():
    made = build({"_target_": "builtins.dict", "_partial_": True, "a": 1})
    assert isinstance(made, functools.partial)
    assert made(b=2) == {"a": 1, "b": 2}


def test_arguments_of_the_caller_join_those_of_the_node():
    assert build({"_target_": "builtins.dict", "a": 1}, b=2) == {"a": 1, "b": 2}


def test_building_leaves_the_node_as_it_was():
    node = {"_target_": "t2ilab.sampling.ode.Heun", "grid": dict(GRID)}
    build(node)
    assert node == {"_target_": "t2ilab.sampling.ode.Heun", "grid": GRID}


def test_rules_that_make_a_number_are_replaced_by_it_and_nothing_else_is():
    rule = {"_target_": "t2ilab.core.shift.dimension", "channels": 16, "edge": 32, "reference": 4096}
    waiting = rule | {"_partial_": True}
    node = {
        "_target_": "t2ilab.sampling.ode.Heun",
        "grid": GRID | {"shift": rule},
        "more": [rule, waiting, None],
    }
    expected = node | {"grid": GRID | {"shift": 2.0}, "more": [2.0, waiting, None]}
    assert with_numbers(node) == expected


@pytest.mark.parametrize("target", ["t2ilab.core.path.Lineer", "t2ilab.nowhere.Linear"])
def test_a_target_that_does_not_exist_is_named_in_the_error(target):
    with pytest.raises(ValueError, match=f"{target} cannot be imported"):
        locate(target)


@pytest.mark.parametrize("target", ["Linear", "", "../..", "t2ilab..path", 7, None, [1]])
def test_what_is_no_dotted_name_is_no_target(target):
    with pytest.raises(ValueError, match=r"_target_: wanted the name of a class or function"):
        locate(target)


@pytest.mark.parametrize("value", [None, 3, "t2ilab.core.path.Linear", {"steps": 3}])
def test_what_is_not_a_node_is_refused(value):
    assert not is_node(value)
    with pytest.raises(ValueError, match="_target_"):
        build(value)


def test_reserved_keys_are_no_arguments():
    assert arguments({"_target_": "builtins.dict", "_partial_": True, "a": 1}) == {"a": 1}


def test_every_target_of_a_tree_is_found():
    tree = {"sampler": {"_target_": "a.B", "grid": {"_target_": "c.D"}}, "more": [{"_target_": "e.F"}, 3]}
    assert targets(tree) == ["a.B", "c.D", "e.F"]


def test_a_name_of_version_0_1_is_found_where_it_is_now():
    assert locate("t2ilab.stages.schedule.Constant") is locate("t2ilab.training.schedule.Constant")


def test_a_run_goes_on_though_the_names_of_its_parts_have_moved():
    was, now = (
        {"stage": {"name": "pretrain"}, "schedule": {"_target_": f"t2ilab.{package}.schedule.Constant"}}
        for package in ("stages", "training")
    )
    assert differences(was, now) == []
    other = now | {"schedule": {"_target_": "t2ilab.training.schedule.Cosine"}}
    assert len(differences(was, other)) == 1
