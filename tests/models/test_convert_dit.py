"""The official DiT's weights in ours: outputs are those of an independent DiT, and weights come back."""

import pytest
import torch

from t2ilab.models import convert_dit
from t2ilab.models.dit import DiT, label_condition

SIZES = {"num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 4, "num_layers": 2}
ROUNDING = {"atol": 1e-4, "rtol": 1e-5}  # a frequency times 999, in float32


@pytest.fixture(scope="module", params=[1, 2])
def theirs(request):
    """diffusers' DiT with random weights, the time embedding of all blocks alike and as in the official code."""
    import diffusers

    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        **SIZES, out_channels=8, sample_size=8, patch_size=request.param, num_embeds_ada_norm=10
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    shared = network.transformer_blocks[0].norm1.emb
    for block in network.transformer_blocks:
        block.norm1.emb = shared
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    return network.eval()


def official(network):
    """The state dict of the official code that holds the weights of diffusers' class."""
    state, found = network.state_dict(), {}

    def take(ours, *names):
        for end in ("weight", "bias"):
            found[f"{ours}.{end}"] = torch.cat([state[f"{name}.{end}"] for name in names])

    take("x_embedder.proj", "pos_embed.proj")
    found["pos_embed"] = state.get("pos_embed.pos_embed", network.pos_embed.pos_embed)
    emb = "transformer_blocks.0.norm1.emb"
    take("t_embedder.mlp.0", f"{emb}.timestep_embedder.linear_1")
    take("t_embedder.mlp.2", f"{emb}.timestep_embedder.linear_2")
    found["y_embedder.embedding_table.weight"] = state[f"{emb}.class_embedder.embedding_table.weight"]
    for number in range(SIZES["num_layers"]):
        ours, block = f"blocks.{number}", f"transformer_blocks.{number}"
        take(f"{ours}.adaLN_modulation.1", f"{block}.norm1.linear")
        take(f"{ours}.attn.qkv", *(f"{block}.attn1.to_{part}" for part in "qkv"))
        take(f"{ours}.attn.proj", f"{block}.attn1.to_out.0")
        take(f"{ours}.mlp.fc1", f"{block}.ff.net.0.proj")
        take(f"{ours}.mlp.fc2", f"{block}.ff.net.2")
    take("final_layer.adaLN_modulation.1", "proj_out_1")
    take("final_layer.linear", "proj_out_2")
    return found


def ours(state, **options):
    network = DiT(**convert_dit.import_options(state, heads=4, **options)).eval()
    network.load_state_dict(convert_dit.import_weights(state, network))
    return network


@torch.no_grad()
def test_outputs_are_those_of_the_published_network(theirs):
    x, t, labels = torch.randn(3, 4, 8, 8), torch.tensor([999.0, 30.0, 0.0]), torch.tensor([3, 10, 0])
    expected = theirs(x, timestep=t, class_labels=labels, return_dict=False)[0]
    assert expected.std() > 0.1 and expected.shape[1] == 8
    network = ours(official(theirs), variance=True)
    found = network(x, t, label_condition(labels))[0]
    torch.testing.assert_close(found, expected, **ROUNDING)
    plain = ours(official(theirs))(x, t, label_condition(labels))[0]
    torch.testing.assert_close(plain, expected[:, :4], **ROUNDING)
    exact = DiT(**convert_dit.import_options(official(theirs), heads=4) | {"activation": "gelu"}).eval()
    exact.load_state_dict(convert_dit.import_weights(official(theirs), exact))
    assert (exact(x, t, label_condition(labels))[0] - plain).abs().max() > 2 * ROUNDING["atol"]


def test_weights_come_back_bit_for_bit_and_positions_are_computed(theirs):
    state = official(theirs)
    back = convert_dit.export_weights(ours(state, variance=True))
    assert set(back) == set(state)
    torch.testing.assert_close(back.pop("pos_embed"), state.pop("pos_embed"), atol=1e-6, rtol=0)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_what_is_no_dit_or_what_the_official_code_lacks_is_refused(theirs):
    state = official(theirs)
    with pytest.raises(ValueError, match="no weights of the official DiT"):
        convert_dit.import_options({"x": torch.zeros(1)}, heads=4)
    network = ours(state)
    with pytest.raises(ValueError, match=r"left over \['y'\]"):
        convert_dit.import_weights(state | {"y": torch.zeros(1)}, network)
    options = convert_dit.import_options(state, heads=4)
    for changed in ({"activation": "gelu"}, {"positions": "rope"}):
        with pytest.raises(ValueError, match="positions=sincos and activation=gelu_tanh only"):
            convert_dit.export_weights(DiT(**options | changed))
    with pytest.raises(ValueError, match="left over"):
        convert_dit.export_weights(DiT(**options, qk_norm=True))
