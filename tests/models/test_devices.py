"""The same network on another device, and traced by the compiler."""

import pytest
import torch

from tests.models.families import TRANSFORMERS, condition, noisy, trained


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_bf16_on_the_gpu_stays_close_to_float32_on_the_cpu(name):
    network = trained(name)
    x, t = noisy()
    exact = network(x, t, condition())[0]
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = network.cuda()(x.cuda(), t.cuda(), condition().to("cuda"))[0].cpu()
    assert out.dtype == torch.float32
    assert (out - exact).norm() < 2e-2 * exact.norm()


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_compiler_traces_the_whole_network_and_changes_nothing(name):
    network = trained(name)
    x, t = noisy()
    cond = condition()
    exact = network(x, t, cond)[0]
    torch.compiler.reset()  # the forms that other tests traced count against a limit
    traced = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(x, t, cond)[0], exact, atol=1e-5, rtol=1e-5)
