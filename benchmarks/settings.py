"""The settings of `tables.py`: what each table asks and what it trains, the reference first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SCORES = {
    "all prompts": "judge/overall",
    "single object": "judge/single_object",
    "two objects": "judge/two_objects",
}
BINS = {
    f"loss t {low:.2f}-{low + 0.25:.2f}": f"loss/t{low:.2f}-{low + 0.25:.2f}" for low in (0, 0.25, 0.5, 0.75)
}


@dataclass(frozen=True)
class Table:
    """One question and its settings, the reference first.

    Attributes:
        steps: of every run; or
        minutes: on one thread, of every run.
        columns: heading to metric of evaluation.json or of the end of metrics.csv, empty where a run has none;
            scores are shown in percent.
        every: steps between evaluations in the run; 0: only at the end.
        baselines: setting to the one whose score it should reach in fewer steps; needs `every`.
        samplers: further samplers that every finished run is drawn with, at the setting's own options of `sampler`;
            the table then has their scores, and which of them and the run's own has the best mean over the seeds.
    """

    question: str
    settings: Mapping[str, Sequence[str]]
    steps: int | None = None
    minutes: float | None = None
    columns: Mapping[str, str] = field(default_factory=lambda: SCORES)
    every: int = 0
    baselines: Mapping[str, str] = field(default_factory=dict)
    samplers: Mapping[str, Sequence[str]] = field(default_factory=dict)


# ln(sigma / alpha) ~ N(ln 2.2, 1), the noise of the default run, on the clock of other paths; path=ve needs no change
ANGLE = ("timestep.shift=2.7", "timestep.std=1.2")
BETAS = ("timestep.shift=0.66", "timestep.std=0.84")  # nearly: the clock of path=vp_linear is no logit
ROOTS = ("timestep.shift=1.15", "timestep.std=1.1")  # of path=scaled_linear
DIFFUSION = ("loss=diffusion", "path=vp_cosine", *ANGLE)
START = "sampler.grid.start=0.999"
# where sigma / alpha is 85, as many times as an error of eps counts in x0; before the shift
EPS_START, BETAS_START = "sampler.grid.start=0.98", "sampler.grid.start=0.96"
SAMPLERS = {
    "no noise, 24 steps": ["sampler=dpmpp_2m", "sampler.grid.steps=24"],
    "noise, 64 steps": ["sampler=dpmpp_2m_sde", "sampler.grid.steps=64"],
}
TRANSFORMERS = ["optimizer.lr=0.02"]  # trials: more suits them for so few steps


def endless(rate: float) -> list[str]:
    """A rate that does not fall: then a score on the way is that of a run of that length."""
    return ["schedule=constant", f"optimizer.lr={rate}"]


def repa(
    of: str, name: str, own: Sequence[str], *, deep: str | None = None, stop: bool = False, read: bool = False
) -> Table:
    """How many steps aligned features save a network: REPA's as they are, and iREPA's without the image's mean.

    Args:
        own: what makes the network.
        deep: a deeper tap than that of the term, to try as well.
        stop: also with REPA that stops early (HASTE).
        read: also with a weight so small that only the projector learns: what of the features is there without REPA.
    """
    irepa = ["terms=[irepa]", "terms.irepa.normalise=1.0"]  # all of the mean, as the tables were measured
    settings = {
        name: own,
        f"{name}, REPA": [*own, "terms=[repa]"],
        f"{name}, iREPA": [*own, *irepa],
    }
    if deep is not None:
        settings[f"{name}, REPA at {deep}"] = [*own, "terms=[repa]", f"terms.repa.tap={deep}"]
    if stop:
        settings[f"{name}, REPA, stopped"] = [*own, "terms=[repa]", "terms.repa.weight.stop=0.4"]
    if read:
        settings[f"{name}, iREPA only read"] = [*own, *irepa, "terms.irepa.weight.value=1e-4"]
    return Table(
        f"features of the built-in CLIP as a further target, for {of}",
        settings,
        steps=720,
        columns=SCORES | {"iREPA's loss": "train/irepa"},
        every=120,
        baselines=dict.fromkeys([*settings][1:], name),
    )


TABLES = {
    "times": Table(
        "which times to train on, and which of them cost most",
        {
            "logit-normal, shift 2.2": [],
            "logit-normal, shift 4": ["timestep.shift=4", "sampler.grid.shift=2.2"],
            "logit-normal, no shift": ["timestep.shift=1", "sampler.grid.shift=2.2"],
            "uniform, shift 2.2": ["timestep=uniform", "timestep.shift=2.2"],
            "uniform, no shift": ["timestep=uniform", "timestep.shift=1", "sampler.grid.shift=2.2"],
        },
        steps=720,
        columns=SCORES | BINS,
    ),
    "objectives": Table(
        "each view of the training at the same noise levels",
        {
            "flow matching, linear": [],
            "flow matching, trigonometric": ["path=trig", *ANGLE],
            "diffusion, v, VP cosine": [*DIFFUSION, "prediction=v", START],
            "diffusion, eps, VP cosine": [*DIFFUSION, "prediction=eps", EPS_START],
            "diffusion, x0, VP cosine, min-SNR": [
                *DIFFUSION,
                "prediction=x0",
                START,
                "weighting@loss.weighting=min_snr",
            ],
            "diffusion, v, VP linear": ["loss=diffusion", "path=vp_linear", *BETAS, "prediction=v"],
            "diffusion, eps, scaled linear": [
                "loss=diffusion",
                "path=scaled_linear",
                *ROOTS,
                "prediction=eps",
            ],
            "diffusion, v, zero terminal SNR": [
                "loss=diffusion",
                "path=scaled_linear",
                "path.zero_terminal_snr=true",
                *ROOTS,
                "prediction=v",
            ],
            "diffusion, EDM, VE": ["loss=diffusion", "path=ve", "path.sigma_max=80", "prediction=edm"],
            "score matching, VP linear": [
                "loss=score_matching",
                "path=vp_linear",
                *BETAS,
                "prediction=eps",
                BETAS_START,
            ],
            "score matching, VE": ["loss=score_matching", "path=ve", "path.sigma_max=80", "prediction=edm"],
        },
        steps=720,
        samplers=SAMPLERS,
    ),
    "models": Table(
        "kinds of networks at about equal parameters and equal time",
        {
            name: [f"model={name}", *own]
            for name, own in {
                "unet_tiny": [],
                **dict.fromkeys(("dit_tiny", "mmdit_tiny", "pixart_tiny", "single_tiny"), TRANSFORMERS),
            }.items()
        },
        minutes=4.0,
    ),
    "models_equal": Table(
        "kinds of networks at equal parameters and equal steps",
        {
            "unet_tiny": [],
            "dit_tiny, width 188": ["model=dit_tiny", "model.width=188", "model.heads=4", *TRANSFORMERS],
            "mmdit_tiny, width 144": ["model=mmdit_tiny", "model.width=144", *TRANSFORMERS],
        },
        steps=720,
    ),
    "curriculum": Table(
        "half of the steps at half the resolution, at equal time",
        {"64 px": [], "32, then 64 px": ["curriculum=resolution"]},
        minutes=4.0,
    ),
    "repa": repa("the default U-Net", "U-Net of 4.5 M", endless(0.004), deep="mid"),
    "repa_unet": repa(
        "a small U-Net", "U-Net", ["model.widths=[32,64]", *endless(0.004)], deep="mid", stop=True, read=True
    ),
    "repa_dit": repa("a DiT", "DiT of 3 blocks", ["model=dit_tiny", "model.depth=3", *endless(0.012)]),
    "sweep": Table(
        "what buys quality at equal time",
        {
            "default": [],
            "twice the rate": ["optimizer.lr=0.024"],
            "a longer average": ["ema.decay=0.998"],
            "adamw instead of muon": ["optimizer=adamw"],
            "batch 128": ["data.batch_size=128"],
            "wider": ["model.widths=[96,160]"],
        },
        minutes=2.0,
    ),
}
