import os
import pickle
import signal
import time

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from t2ilab.data.module import DataModule
from t2ilab.data.order import EpochOrder


class Squares:
    """The smallest provider: a row says who it is and in which visit it was asked for."""

    def __init__(self, num_rows):
        self.num_rows = num_rows

    def __len__(self):
        return self.num_rows

    def fetch(self, indices, epochs):
        index, epoch = torch.tensor(indices), torch.tensor(epochs)
        return {"x": index.float() ** 2, "visit": torch.stack([index, epoch], dim=1)}


def module(num_rows=20, batch_size=8, **options):
    return DataModule(Squares(num_rows), EpochOrder(num_rows, batch_size, seed=4), **options)


def plain(batch):
    return {
        name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in batch.items()
    }


def batches(data, **options):
    return [plain(batch) for batch in data.loader(**options)]


def test_a_batch_names_its_step_and_rows_and_carries_what_was_fetched():
    data = module(stop_step=3)
    for step, batch in enumerate(data.train_dataloader()):
        visits = list(zip(*(part.tolist() for part in data.order.arrays(step)), strict=True))
        assert batch["step"] == step
        assert batch["rows"].tolist() == list(range(8))
        assert list(zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True)) == visits
        assert batch["x"].tolist() == [index**2 for _, index in visits]
        assert batch["visit"].tolist() == [[index, epoch] for epoch, index in visits]
    assert step == 2


def test_workers_change_nothing():
    own = batches(module(accumulate=2, stop_step=6))
    assert own == batches(module(accumulate=2, stop_step=6, workers=2))
    assert len(own) == 12


def test_signals_to_the_whole_group_do_not_end_the_workers():
    batches_ahead = iter(module(stop_step=12, workers=2).loader())
    seen = [plain(next(batches_ahead)) for _ in range(2)]
    for worker in batches_ahead._workers:
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
    time.sleep(0.05)
    assert seen + [plain(batch) for batch in batches_ahead] == batches(module(stop_step=12))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_starting_at_a_step_equals_skipping_to_it(accumulate):
    whole = batches(module(accumulate=accumulate, stop_step=7))
    resumed = module(accumulate=accumulate, stop_step=7)
    resumed.load_state_dict({"step": 3, "order": resumed.state_dict()["order"]})
    assert batches(resumed) == whole[3 * accumulate :]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_all_processes_together_see_the_batch_of_one(world, accumulate):
    def rows(batch):
        return [
            (batch["step"], r, i, x)
            for r, i, x in zip(batch["rows"], batch["index"], batch["x"], strict=True)
        ]

    alone = [row for batch in batches(module(stop_step=4)) for row in rows(batch)]
    shared = module(accumulate=accumulate, stop_step=4)
    parts = [batch for rank in range(world) for batch in batches(shared, world=world, rank=rank)]
    assert sorted(row for part in parts for row in rows(part)) == sorted(alone)


def test_the_state_is_the_consumed_step_and_what_the_order_depends_on():
    data = module(identity={"data": "digest"})
    data.step = 5
    state = data.state_dict()
    assert state == {
        "step": 5,
        "order": {"num_rows": 20, "data.batch_size": 8, "seed": 4, "data": "digest"},
    }
    other = module(identity={"data": "digest"})
    other.load_state_dict(pickle.loads(pickle.dumps(state)))
    assert other.step == 5


def test_resuming_with_other_data_is_refused_and_the_fields_are_named():
    state = module(identity={"data": "digest"}).state_dict()
    with pytest.raises(ValueError, match=r"data was 'digest', is 'other'; .*batch_size was 8, is 4"):
        module(batch_size=4, identity={"data": "other"}).load_state_dict(state)


def test_making_a_loader_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    batches(module(stop_step=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"data\.workers"):
        module(workers=-1)
    with pytest.raises(ValueError, match=r"data\.batch_size"):
        next(iter(module(batch_size=7, accumulate=2).loader()))
    with pytest.raises(ValueError, match="does not fit"):
        DataModule(Squares(3), EpochOrder(4, 2, seed=0))


class Short(Squares):
    def fetch(self, indices, epochs):
        return {"x": torch.zeros(len(indices) - 1)}


def test_a_provider_that_gives_too_few_rows_is_refused():
    with pytest.raises(ValueError, match="8 rows gave"):
        batches(DataModule(Short(20), EpochOrder(20, 8, seed=0), stop_step=1))


class Recorder(LightningModule):
    """The smallest stage: it says what it consumed."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch["step"], batch["rows"].tolist(), batch["index"].tolist()))
        return (self.weight * batch["x"].mean()).sum()

    def on_train_batch_end(self, *_):
        self.trainer.datamodule.step = self.trainer.global_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(folder, data, steps, checkpoint=None):
    stage = Recorder()
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        accumulate_grad_batches=data.accumulate,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.fit(stage, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return stage.seen


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_training_consumes_what_the_whole_one_would_have(tmp_path):
    whole = trained(tmp_path, module(accumulate=2), 7)
    first = trained(tmp_path, module(accumulate=2, workers=1), 3)
    rest = trained(tmp_path, module(accumulate=2), 7, tmp_path / "3.ckpt")
    assert first + rest == whole
    assert [step for step, _, _ in whole] == [step for step in range(7) for _ in range(2)]
