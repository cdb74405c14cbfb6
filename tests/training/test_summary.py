"""The choices of a run in a few words."""

from t2ilab.config.composition import compose
from t2ilab.runs.summary import summary


def test_the_start_tells_what_was_chosen():
    text = " ".join(summary(compose([]), precision="fp32", threads=2).split())
    for part in (
        "data Scenes general resolution 64",
        "model UNet",
        "objective FlowMatching",
        "optimizer MuonAdamW rate",
    ):
        assert f"{part}" in text
    for part in ("average EMA decay 0.995", "sampler DPMSolverPP2M steps 24", "precision fp32", "threads 2"):
        assert f"; {part}" in text


def test_what_a_stage_does_not_use_is_left_out_and_lines_fit_the_terminal():
    text = summary(compose(["stage=autoencoder"]), precision="bf16", threads=None)
    assert "sampler" not in text and "threads" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_several_terms_are_named_one_by_one():
    assert "with REPA, REG" in summary(compose(["recipe=reg"]), precision="fp32", threads=1).replace(
        "\n ", ""
    )
