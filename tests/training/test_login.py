"""A missing login is said before a run begins."""

import pytest
import wandb

from t2ilab.config.composition import checked
from t2ilab.runs.login import login_fault

ONLINE = {
    "_target_": "t2ilab.training.loggers.wandb",
    "_partial_": True,
    "project": "t2ilab",
    "offline": False,
}


@pytest.fixture
def account(monkeypatch, tmp_path):
    """A home without a login; gives a function that sets the environment of W&B."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def setting(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()

    setting()
    yield setting
    wandb.teardown()


def test_a_missing_login_is_said_with_the_other_faults_of_the_options(account):
    with pytest.raises(ValueError) as caught:
        checked(["debug=tiny", "logger=wandb", "logger.mirror.offline=false", "optimizer.lr=-1"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 problems in the options:"
    assert "logger.mirror.offline=false: nobody is logged in to W&B here; run `wandb login`" in lines[-1]


def test_a_login_and_a_run_that_is_not_sent_are_not_asked_for_one(account):
    assert login_fault(ONLINE | {"offline": True}) == []
    assert login_fault(None) == []
    assert login_fault({"_target_": "lightning.pytorch.loggers.TensorBoardLogger"}) == []
    account(WANDB_MODE="offline")
    assert login_fault(ONLINE) == []
    account(WANDB_MODE="online", WANDB_API_KEY="a" * 40)
    assert login_fault(ONLINE) == []


def test_a_key_that_cannot_be_one_is_named(account):
    account(WANDB_API_KEY="short")
    (fault,) = login_fault(ONLINE)
    assert fault.startswith("logger.mirror.offline=false: WANDB_API_KEY invalid")
