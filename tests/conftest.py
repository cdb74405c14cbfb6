"""One thread, full precision and a fixed seed: what the tests see does not depend on the machine."""

import pytest
import torch

torch.set_num_threads(1)
torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A cache of latents and texts for the runs of one test module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2ILAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _same_numbers_in_every_run():
    torch.manual_seed(0)
