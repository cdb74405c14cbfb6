"""What a curriculum makes of the options of a run."""

import math

import pytest
import torch

from t2ilab.build import build
from t2ilab.config.composition import checked
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import shift_time
from t2ilab.data.phases import PhaseOrder
from t2ilab.data.sets import Scenes
from t2ilab.training.phases import data_of, dropout_of, lines_of, loss_of, phases_of, route

TINY = ("debug=tiny", "data.resolution=64", "trainer.max_steps=13")
RESOLUTION = (*TINY, "curriculum=resolution", "timestep.shift=3.0", "timestep.uniform_share=0")


def config(*options):
    return checked([*RESOLUTION, *options])


def test_a_run_without_a_curriculum_has_one_phase_with_its_own_options():
    plain = checked([*TINY])
    phases = phases_of(plain)
    assert [(phase.first, phase.data, phase.timestep) for phase in phases] == [
        (0, plain["data"], plain["timestep"])
    ]
    assert isinstance(data_of(phases, plain), Scenes)
    assert loss_of(phases, plain) == plain["loss"]
    assert lines_of(phases) == {}
    assert dropout_of(phases)(7) == plain["stage"]["condition_dropout"]


def test_a_phase_is_the_run_with_some_options_changed():
    made = config()
    low, full = phases_of(made)
    assert (low.first, full.first) == (0, 6)
    assert full.data == made["data"] and full.timestep == made["timestep"]
    assert low.data == made["data"] | {"resolution": 32}
    assert low.timestep == made["timestep"] | {"shift": 1.5}
    assert lines_of([low, full]) == {
        0: "phase 1 of 2, low, from step 0: data.resolution=32, timestep.shift=1.5",
        6: "phase 2 of 2, full, from step 6: the options of the run",
    }


@pytest.mark.parametrize(
    ("shares", "firsts"), [((0.5, 0.5), [0, 6]), ((0.1, 0.9), [0, 1]), ((0.7, 0.3), [0, 9])]
)
def test_shares_become_whole_steps(shares, firsts):
    options = [
        f"curriculum.phases.{name}.share={share}" for name, share in zip(("low", "full"), shares, strict=True)
    ]
    assert [phase.first for phase in phases_of(config(*options))] == firsts


def test_inner_options_are_merged_and_null_takes_away():
    weights = "{short:1,long:1,paraphrase:0}"
    made = config(
        f"+data.caption_weights={weights}",
        "+curriculum.phases.low.data.caption_weights={long:0}",
        "+curriculum.phases.full.data={caption_weights:null}",
    )
    low, full = phases_of(made)
    assert low.data["caption_weights"] == {"short": 1, "long": 0, "paraphrase": 0}
    assert full.data["caption_weights"] is None
    assert low.changes == ("data.resolution=32", "data.caption_weights.long=0", "timestep.shift=1.5")
    assert full.changes == ("data.caption_weights=null",)


def test_the_data_of_all_phases_are_built_once_each():
    made = config()
    data = data_of(phases_of(made), made)
    low, full = data.phases
    assert full is data.main and low is not full
    assert [source.resolution for source in data.sources()] == [32, 64]
    order = data.order(0)
    assert isinstance(order, PhaseOrder) and order.starts == (0, 6)


def test_the_objective_draws_the_times_of_the_phase():
    """A shift adds its logarithm to the logit, so with levels in common the two phases differ by ln 2."""
    made = config()
    timestep = build(loss_of(phases_of(made), made)).timestep
    whole = build(made["timestep"])
    for step in (0, 5, 6, 12):
        rng = RowRng(0, step, torch.arange(64), 64)
        t, unphased = timestep(rng).double(), whole(rng).double()
        difference = (torch.logit(unphased) - torch.logit(t)).median()
        assert float(difference) == pytest.approx(math.log(2) if step < 6 else 0.0, abs=1e-5)
        wanted = shift_time(unphased, 0.5) if step < 6 else unphased
        torch.testing.assert_close(t, wanted, rtol=0, atol=1e-6)


def test_condition_dropout_follows_the_step():
    made = config("+curriculum.phases.low.condition_dropout=0.4")
    dropout = dropout_of(phases_of(made))
    assert [dropout(step) for step in (0, 5, 6, 12)] == [0.4, 0.4, 0.1, 0.1]
    assert phases_of(made)[0].changes[-1] == "condition_dropout=0.4"


def test_the_share_of_tokens_left_out_follows_the_step():
    """Of 64 tokens a quarter stays in the first nine tenths, then all."""
    options = ("curriculum=unmask", "routing@model.routing=masking", "trainer.max_steps=20")
    made = checked([*TINY, *options, "+curriculum.phases.masked.routing_share=0.5"])
    phases = phases_of(made)
    assert [(phase.first, phase.routing_share) for phase in phases] == [(0, 0.5), (18, 0.0)]
    assert [phase.changes for phase in phases] == [("routing_share=0.5",), ("routing_share=0.0",)]
    made = checked([*TINY, *options])
    network = build(made["model"])
    route(network, phases_of(made))
    kept = [
        network.routing.draw(RowRng(0, step, torch.arange(2), 2), (8, 8)).get("kept") for step in range(20)
    ]
    assert [None if one is None else one.shape[1] for one in kept] == [16] * 18 + [None] * 2
    plain = build(made["model"])
    route(plain, phases_of(checked([*TINY])))
    assert plain.routing.share_at(19) == 0.75
    with pytest.raises(ValueError, match=r"phases\.full\.routing_share: this model leaves no tokens out"):
        route(build(checked([*TINY])["model"]), phases_of(made))


def test_a_shift_that_is_made_by_a_rule_is_followed_too():
    made = config()
    made["timestep"]["shift"] = {"_target_": "fractions.Fraction", "numerator": 3}
    assert phases_of(made)[0].timestep["shift"] == 1.5


def test_a_run_that_was_not_checked_refuses_shares_that_do_not_divide_it():
    made = config()
    made["curriculum"]["phases"]["low"]["share"] = 0.2
    with pytest.raises(ValueError, match=r"shares must add up to 1, got 0.2 \+ 0.5"):
        phases_of(made)
