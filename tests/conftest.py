"""One thread, full precision and a fixed seed: what the tests see does not depend on the machine."""

import os
import time

import pytest
import torch

torch.set_num_threads(1)
torch.set_float32_matmul_precision("highest")
BEGAN = time.monotonic()


def pytest_runtest_setup(item):
    """`make proof MINUTES=N` begins no test of its own after N minutes, and says which it has left out."""
    minutes = os.environ.get("PROOF_MINUTES")
    if minutes and item.get_closest_marker("proof") and time.monotonic() - BEGAN > 60 * float(minutes):
        pytest.skip(f"the {minutes} minutes of make proof are over; make proof MINUTES=... gives it more")


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A cache of latents and texts for the runs of one test module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2ILAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _same_numbers_in_every_run():
    torch.manual_seed(0)
