"""What of the parts every process of a run keeps, and what the one that draws and measures."""

import pytest
from torch import nn

from t2ilab.stages.assembly import let_go
from t2ilab.text.random import RandomText
from t2ilab.training import job
from tests.tiny import command


class Reached(Exception):
    """The first step would come now."""


def devices(network):
    return {value.device.type for value in (*network.parameters(), *network.buffers())}


@pytest.mark.parametrize("first", [True, False])
def test_a_process_that_draws_nothing_frees_its_text_encoder_before_training(first, tmp_path, monkeypatch):
    def fit(self, stage, *_, callbacks, **__):
        previews, *_ = callbacks
        raise Reached(previews.generate)

    monkeypatch.setattr(job, "is_first_process", lambda: first)
    monkeypatch.setattr(job.Job, "fit", fit)
    with pytest.raises(Reached) as reached:
        command("debug=tiny", run_dir=tmp_path)
    (generate,) = reached.value.args
    assert devices(generate.conditioner) == {"cpu" if first else "meta"}
    assert devices(generate.denoiser) | devices(generate.autoencoder) == {"cpu"}


@pytest.mark.parametrize("trains", [True, False])
def test_a_text_encoder_that_trains_stays(trains):
    conditioner = RandomText(dim=4, pooled_dim=None, length=4)
    student = nn.Module()
    if trains:
        student.add_module("text", conditioner)
    let_go(conditioner, nn.ModuleList([student]))
    assert devices(conditioner) == {"cpu" if trains else "meta"}
