"""`stage=sft`: supervised fine-tuning of a finished model on few good images with full captions.

The training step is that of `stage=pretrain`; what differs is the data, the rate and the length. Source: Dai et al.
2023 (Emu), arXiv 2309.15807, where 2,000 images of high quality, a small rate and few steps changed the style of a
model and left what it knows.
"""

from __future__ import annotations

from t2ilab.build import Config
from t2ilab.stages.assembly import assemble, train
from t2ilab.stages.pretrain import learner
from t2ilab.training.job import Job
from t2ilab.training.start import Start


def run(config: Config) -> float | None:
    """Fine-tunes the model of init_from; returns judge/overall (or minus the held-out loss without a judge)."""
    start = Start.of(config)
    with Job.open(config, start=start, inherited=start.parts(config)) as job:
        if (value := job.finished()) is not None:
            return value
        parts = assemble(job, start.student, start)
        return train(job, parts, learner(job, parts), start)
