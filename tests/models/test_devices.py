"""The same network on another device, and traced by the compiler."""

import pytest
import torch

from t2ilab.models.dit import CONTEXTS
from tests.models.test_dit import condition, noisy, trained


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("context", CONTEXTS)
def test_bf16_on_the_gpu_stays_close_to_float32_on_the_cpu(context):
    network = trained(context=context)
    x, t = noisy()
    exact = network(x, t, condition())[0]
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = network.cuda()(x.cuda(), t.cuda(), condition().to("cuda"))[0].cpu()
    assert out.dtype == torch.float32
    assert (out - exact).norm() < 2e-2 * exact.norm()


@pytest.mark.slow
@pytest.mark.parametrize("context", CONTEXTS)
def test_the_compiler_traces_the_whole_network_and_changes_nothing(context):
    network = trained(context=context)
    x, t = noisy()
    cond = condition()
    exact = network(x, t, cond)[0]
    traced = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(x, t, cond)[0], exact, atol=1e-5, rtol=1e-5)
