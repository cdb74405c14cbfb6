"""`stage=continue`: further pre-training of a finished model on other data, with a share of the old ones.

The training step is that of `stage=pretrain`. The network, path, prediction, autoencoder and conditioner are those of
`init_from`; its averaged weights are where both the student and its average begin.
"""

from __future__ import annotations

from t2ilab.build import Config
from t2ilab.stages.assembly import assemble, train
from t2ilab.stages.pretrain import learner
from t2ilab.stages.replay import with_replay
from t2ilab.training.job import Job
from t2ilab.training.start import Start


def run(config: Config) -> float | None:
    """Trains the model of init_from further; returns judge/overall (or minus the held-out loss without a judge)."""
    start = Start.of(config)
    data = with_replay(config["data"], start.data, config["stage"]["replay"])
    with Job.open(config, start=start, inherited=start.parts(config) | {"data": data}) as job:
        if (value := job.finished()) is not None:
            return value
        parts = assemble(job, start.student, start)
        return train(job, parts, learner(job, parts), start)
