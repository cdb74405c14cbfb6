"""Weight for weight the same as diffusers' classes, and back."""

import pytest
import torch

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.discrete import Discrete
from t2ilab.core.path import Linear
from t2ilab.core.prediction import Eps, Velocity
from t2ilab.core.types import Condition
from t2ilab.models import convert_pixart, convert_sd3
from t2ilab.models.mmdit import MMDiT
from t2ilab.models.pixart import PixArt
from t2ilab.models.unet import UNet

SD3 = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 12,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 6,
    "pos_embed_max_size": 7,
    "qk_norm": None,
}
PIXART = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "cross_attention_dim": 32,
    "caption_channels": 12,
}


def published(family, **options):
    """A network of diffusers with random weights, all of them."""
    import diffusers

    torch.manual_seed(0)
    if family is convert_sd3:
        network = diffusers.SD3Transformer2DModel(**{**SD3, **options})
    else:
        network = diffusers.PixArtTransformer2DModel(**{**PIXART, **options})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def options_of(family, config):
    """Arguments of the network that gives all output channels of the published one."""
    return family.import_options(config, **({"variance": True} if family is convert_pixart else {}))


def ours(family, theirs):
    network = (MMDiT if family is convert_sd3 else PixArt)(**options_of(family, theirs.config))
    network.load_state_dict(family.import_weights(theirs.state_dict(), network))
    return network.eval()


def condition():
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return Condition(torch.randn(2, 5, 12), mask, torch.randn(2, 6))


def inputs():
    return torch.randn(2, 4, 8, 12), torch.tensor([900.5, 30.0]), condition()


CASES = [
    (convert_sd3, {}, (8, 8)),
    (convert_sd3, {}, (8, 12)),
    (convert_sd3, {"qk_norm": "rms_norm"}, (6, 10)),
    (convert_sd3, {"pos_embed_max_size": None}, (12, 8)),
    (convert_sd3, {"patch_size": 1, "pos_embed_max_size": 12}, (8, 8)),
    (convert_pixart, {}, (8, 8)),
    (convert_pixart, {}, (8, 12)),
    (convert_pixart, {"interpolation_scale": 2, "out_channels": 4}, (8, 8)),
]


@torch.no_grad()
@pytest.mark.parametrize(("family", "options", "shape"), CASES)
def test_outputs_are_those_of_the_published_class(family, options, shape):
    theirs = published(family, **options)
    network = ours(family, theirs)
    x, t, cond = torch.randn(2, 4, *shape), torch.tensor([900.5, 30.0]), condition()
    if family is convert_sd3:  # which knows no mask
        cond = Condition(cond.tokens, torch.ones_like(cond.mask), cond.pooled)
        expected = theirs(x, cond.tokens, cond.pooled, t, return_dict=False)[0]
    else:
        expected = theirs(x, cond.tokens, t, encoder_attention_mask=cond.mask, return_dict=False)[0]
    assert expected.std() > 0.1
    torch.testing.assert_close(network(x, t, cond)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "options"), sorted({(c[0], tuple(c[1].items())) for c in CASES}, key=str))
def test_weights_come_back_bit_for_bit_with_a_config_that_loads_them(family, options):
    theirs = published(family, **dict(options))
    network = ours(family, theirs)
    state = family.export_weights(network)
    assert set(state) == set(theirs.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.state_dict().items())
    again = type(theirs)(**family.export_config(network))
    again.load_state_dict(state)
    assert options_of(family, again.config) == options_of(family, theirs.config)


@torch.no_grad()
@pytest.mark.parametrize("patch", [1, 2])
def test_a_published_variance_is_left_behind_by_default(patch):
    theirs, x, t, cond = published(convert_pixart, patch_size=patch), *inputs()
    network = PixArt(**convert_pixart.import_options(theirs.config)).eval()
    network.load_state_dict(convert_pixart.import_weights(theirs.state_dict(), network))
    expected = theirs(x, cond.tokens, t, encoder_attention_mask=cond.mask, return_dict=False)[0]
    assert expected.shape[1] == 8 and (expected[:, :4] - expected[:, 4:]).std() > 0.1
    torch.testing.assert_close(network(x, t, cond)[0], expected[:, :4], atol=1e-5, rtol=1e-5)
    back = type(theirs)(**convert_pixart.export_config(network)).eval()
    back.load_state_dict(convert_pixart.export_weights(network))
    found = back(x, cond.tokens, t, encoder_attention_mask=cond.mask, return_dict=False)[0]
    torch.testing.assert_close(found, expected[:, :4], atol=1e-5, rtol=1e-5)


def repeated(cond, rows):
    return Condition(
        *(part[:1].expand(rows, *part.shape[1:]) for part in (cond.tokens, cond.mask, cond.pooled))
    )


@torch.no_grad()
@pytest.mark.parametrize("family", [convert_pixart, UNet])
def test_a_denoiser_agrees_with_a_published_network_at_each_of_its_thousand_steps(family):
    if family is convert_pixart:
        theirs = published(family, sample_size=4, out_channels=4)
        network, path = ours(family, theirs), Discrete(1e-4, 0.02)
    else:
        torch.manual_seed(0)
        network = UNet(
            in_channels=4,
            input_size=4,
            widths=[16, 32],
            layers=1,
            attention=[False, True],
            head_dim=8,
            text_dim=12,
            groups=8,
            norm_text=False,
        ).eval()
        torch.nn.init.normal_(network.network.conv_out.weight, std=0.1)
        theirs, path = network.network, Discrete(0.00085, 0.012, power=2.0)
    denoiser = Denoiser(network, path, Eps(), **path.counted_from_zero)
    x, cond = torch.randn(1, 4, 4, 4), condition()
    for steps in torch.arange(1000).split(250):
        rows, texts = x.expand(len(steps), -1, -1, -1), repeated(cond, len(steps))
        found = denoiser(rows, (steps + 1) / 1000, texts).eps
        expected = theirs(
            rows,
            timestep=steps,
            encoder_hidden_states=texts.tokens,
            encoder_attention_mask=texts.mask,
            return_dict=False,
        )[0]
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    late = denoiser(x, torch.ones(1), cond[:1]).eps
    assert (Denoiser(network, path, Eps())(x, torch.ones(1), cond[:1]).eps - late).abs().max() > 1e-4


@torch.no_grad()
def test_a_denoiser_agrees_with_sd3_at_its_times_without_an_offset():
    theirs = published(convert_sd3)
    denoiser = Denoiser(ours(convert_sd3, theirs), Linear(), Velocity())
    x, t, cond = torch.randn(2, 4, 8, 8), torch.tensor([0.9005, 0.03]), condition()
    cond = Condition(cond.tokens, torch.ones_like(cond.mask), cond.pooled)
    expected = theirs(x, cond.tokens, cond.pooled, 1000 * t, return_dict=False)[0]
    torch.testing.assert_close(denoiser(x, t, cond).velocity(), expected, atol=1e-5, rtol=1e-5)


def test_a_variance_that_was_never_published_cannot_be_kept():
    config = published(convert_pixart, out_channels=4).config
    assert not convert_pixart.import_options(config, variance=True)["learn_sigma"]


def test_weights_of_another_network_are_refused():
    theirs = published(convert_sd3)
    network = ours(convert_sd3, theirs)
    state = theirs.state_dict()
    with pytest.raises(ValueError, match=r"missing \['context_embedder.bias'\], left over \['x'\]"):
        convert_sd3.import_weights(
            {("x" if name == "context_embedder.bias" else name): value for name, value in state.items()},
            network,
        )
    with pytest.raises(ValueError, match="position_max"):
        convert_sd3.import_weights(state | {"pos_embed.pos_embed": torch.zeros(1, 4, 32)}, network)
    with pytest.raises(ValueError, match="position_base"):
        shifted = state["pos_embed.pos_embed"].roll(1, 1)
        convert_sd3.import_weights(state | {"pos_embed.pos_embed": shifted}, network)


def test_a_table_of_positions_in_half_precision_is_accepted():
    theirs = published(convert_sd3).half()
    network = MMDiT(**convert_sd3.import_options(theirs.config))
    network.load_state_dict(convert_sd3.import_weights(theirs.state_dict(), network))


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        (convert_sd3, {"dual_attention_layers": (0,)}, r"dual_attention_layers=\(0,\)"),
        (convert_sd3, {"qk_norm": "layer_norm"}, "layer_norm"),
        (convert_pixart, {"use_additional_conditions": True}, "use_additional_conditions=True"),
        (convert_pixart, {"sample_size": 128}, "use_additional_conditions=True"),
        (convert_pixart, {"caption_channels": None}, "caption_channels"),
        (convert_pixart, {"out_channels": 5}, "out_channels=5"),
    ],
)
def test_settings_that_our_networks_lack_are_refused_by_name(family, options, message):
    with pytest.raises(ValueError, match=message):
        family.import_options(published(family, **options).config)


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        (convert_sd3, {"norm_text": True}, "norm_text"),
        (convert_sd3, {"activation": "gelu"}, "activation"),
        (convert_sd3, {"positions": "rope", "position_max": None, "position_base": None}, "positions=sincos"),
        (convert_sd3, {"overlap": 1}, "overlap"),
        (convert_pixart, {"overlap": 1}, "overlap"),
        (convert_pixart, {"pooled_dim": 6}, "pooled_dim"),
        (convert_pixart, {"mlp_ratio": 2.0}, "mlp_ratio"),
    ],
)
def test_settings_that_diffusers_lacks_are_refused_by_name(family, changed, message):
    options = family.import_options(published(family).config) | changed
    network = (MMDiT if family is convert_sd3 else PixArt)(**options)
    with pytest.raises(ValueError, match=message):
        family.export_config(network)
