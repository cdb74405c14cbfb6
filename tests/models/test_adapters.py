"""Adapters in a network: the identity at the start, what trains, merging, and what others read of them."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from t2ilab.averages.ema import EMA
from t2ilab.core.types import Condition
from t2ilab.models import convert_adapter, convert_pixart, convert_sd3, injection
from t2ilab.models.adapters import LoHa, LoKr, LoRA
from t2ilab.models.dit import DiT
from t2ilab.models.injection import WithoutAdapter, adapter_state, inject, injected, merge, restore
from t2ilab.models.mmdit import MMDiT
from t2ilab.models.pixart import PixArt
from t2ilab.models.unet import UNet

SIZES = {
    "in_channels": 4,
    "input_size": 8,
    "patch_size": 2,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "text_dim": 6,
}
LORA = {"rank": 2, "alpha": 6.0, "targets": "attention", "init": "gaussian", "rslora": False, "dora": False}
KINDS = {
    "lora": LoRA(**LORA),
    "rslora": LoRA(**LORA | {"rslora": True}),
    "dora": LoRA(**LORA | {"dora": True}),
    "pissa": LoRA(**LORA | {"init": "pissa"}),
    "loha": LoHa(rank=2, alpha=6.0, targets="attention"),
    "lokr": LoKr(rank=2, alpha=6.0, targets="attention"),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def random_(network):
    """All weights random: at the start many are 0."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network.eval()


def dit():
    torch.manual_seed(0)
    return random_(DiT(**SIZES, pooled_dim=5, context="kv"))


def mmdit():
    torch.manual_seed(0)
    return random_(MMDiT(**SIZES, pooled_dim=5, norm_text=False, activation="gelu_tanh"))


def pixart():
    torch.manual_seed(0)
    return random_(PixArt(**SIZES, norm_text=False, activation="gelu_tanh"))


def unet():
    torch.manual_seed(0)
    sizes = {"in_channels": 4, "input_size": 8, "widths": [8, 16], "layers": 1, "attention": [True, True]}
    return random_(UNet(**sizes, head_dim=8, text_dim=6, groups=4, norm_text=False))


def inputs():
    torch.manual_seed(1)
    condition = Condition(torch.randn(2, 3, 6), torch.ones(2, 3, dtype=torch.bool), torch.randn(2, 5))
    return torch.randn(2, 4, 8, 8), torch.tensor([100.0, 700.0]), condition


@torch.no_grad()
def out(network):
    return network(*inputs())[0]


@torch.no_grad()
def train_(network):
    torch.manual_seed(2)
    for p in network.parameters():
        if p.requires_grad:
            p.add_(0.2 * torch.randn_like(p))
    return network


@each_kind
def test_a_new_adapter_changes_nothing(kind):
    network = dit()
    before = out(network)
    inject(network, KINDS[kind])
    inside = KINDS[kind].begins_inside
    torch.testing.assert_close(out(network), before, atol=1e-5 if inside else 0, rtol=0)


@each_kind
def test_merged_equals_unmerged(kind):
    network = dit()
    names, base = set(network.state_dict()), out(network)
    inject(network, KINDS[kind])
    train_(network)
    unmerged = out(network)
    assert (unmerged - base).abs().max() > 1e-3
    merge(network)
    assert set(network.state_dict()) == names and injected(network) is None
    torch.testing.assert_close(out(network), unmerged, atol=1e-5, rtol=1e-5)
    assert all(p.requires_grad for p in network.parameters())


@each_kind
def test_what_is_saved_gives_the_same_output_to_the_bit(kind):
    network = dit()
    inject(network, KINDS[kind])
    train_(network)
    again = dit()
    restore(again, KINDS[kind], adapter_state(network))
    assert torch.equal(out(again), out(network))


@each_kind
def test_the_adapter_alone_trains_and_alone_is_averaged(kind):
    network = dit()
    made = inject(network, KINDS[kind])
    network(*inputs())[0].square().sum().backward()
    moved = {name for name, p in network.named_parameters() if p.grad is not None}
    assert moved and all(any(name.startswith(f"{layer}.") for layer in made.layers) for name in moved)
    assert moved == {name for name, p in network.named_parameters() if p.requires_grad}
    assert not any("base_layer" in name for name in moved)
    ema = EMA(decay=0.5)
    ema.start(network)
    assert set(ema.shadow) == moved
    own = out(network)
    train_(network)
    with ema.applied(network):
        assert torch.equal(out(network), own)


def test_the_update_of_lora_is_alpha_over_rank_times_the_product():
    for kind, scale in (("lora", 3.0), ("rslora", 6 / math.sqrt(2))):
        network = dit()
        weight = network.blocks[0].attention.qkv.weight.detach().clone()
        inject(network, KINDS[kind])
        train_(network)
        state = adapter_state(network)
        a, b = (state[f"blocks.0.attention.qkv.lora_{part}.weight"] for part in "AB")
        merge(network)
        torch.testing.assert_close(network.blocks[0].attention.qkv.weight - weight, scale * b @ a)


def test_the_count_of_trained_weights_is_that_of_the_formula():
    network = dit()
    made = inject(network, KINDS["lora"])
    sizes = [network.get_submodule(name).get_base_layer().weight.shape for name in made.layers]
    assert sum(2 * (o + i) for o, i in sizes) == sum(
        p.numel() for p in network.parameters() if p.requires_grad
    )
    assert f"{len(made.layers)} layers" in injection.line(network, str)


def test_targets_are_words_or_endings_and_a_miss_lists_the_layers():
    network = dit()
    every = injection.matched(network, LoRA(**LORA | {"targets": "all"}))
    assert "blocks.0.mlp.hidden" in every and "patch_in" not in every
    assert injection.matched(network, LoRA(**LORA | {"targets": ["mlp.out"]})) == (
        "blocks.0.mlp.out",
        "blocks.1.mlp.out",
    )
    for missing in (["mlp.out", "nothing"], ["patch_in"], ["lp.out"]):
        with pytest.raises(ValueError, match=r"no layer ends in .*; there are blocks\.\*\.attention\.out"):
            injection.matched(network, LoRA(**LORA | {"targets": missing}))


def test_a_rank_above_a_side_of_a_layer_is_said_and_refused_where_it_is_of_its_singular_directions():
    for kind, adapter in KINDS.items():
        network, wide = dit(), replace(adapter, rank=17)
        if kind == "pissa":
            with pytest.raises(
                ValueError, match=r"smaller side of 6 of 6 layers.*16.*adapter\.rank=16 suits all"
            ):
                inject(network, wide)
            continue
        inject(network, wide)
        told = "adapter.rank=17 is more than the smaller side of 6 of 6 layers" in injection.line(
            network, str
        )
        assert told is (kind != "lokr")
        inject(plain := dit(), adapter)
        assert "note" not in injection.line(plain, str)


@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_get_a_lora_and_are_refused_by_name_with_what_is_for_matrices(kind):
    network, both = unet(), ["conv1", "to_q"]
    adapter = replace(KINDS[kind], targets=both)
    if kind in ("lora", "rslora", "dora"):
        assert any(name.endswith("conv1") for name in inject(network, adapter).layers)
        return
    with pytest.raises(ValueError, match=r"adapter\.targets: conv1 names convolutions"):
        inject(network, adapter)
    with pytest.raises(ValueError, match="no layer ends in nowhere"):
        inject(network, replace(adapter, targets=["nowhere"]))


def test_two_adapters_at_once_and_weights_of_another_network_are_refused():
    network = dit()
    inject(network, KINDS["lora"])
    with pytest.raises(ValueError, match=r"merge it first"):
        inject(network, KINDS["lora"])
    with pytest.raises(ValueError, match="missing"):
        restore(mmdit(), KINDS["lora"], adapter_state(network))


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"alpha": 0.0}, {"targets": []}, {"init": "none"}, {"init": "pissa", "dora": True}]
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=r"adapter\."):
        LoRA(**LORA | wrong)


def as_diffusers(network):
    """The published network of the same weights, and how it is called."""
    import diffusers

    x, t, cond = inputs()
    if isinstance(network, UNet):
        made = diffusers.UNet2DConditionModel.from_config(network.network.config)
        made.load_state_dict({name.removeprefix("network."): v for name, v in network.state_dict().items()})
        more = {"encoder_hidden_states": cond.tokens}
    elif isinstance(network, MMDiT):
        made = diffusers.SD3Transformer2DModel(**convert_sd3.export_config(network))
        made.load_state_dict(convert_sd3.export_weights(network))
        more = {"encoder_hidden_states": cond.tokens, "pooled_projections": cond.pooled}
    else:
        made = diffusers.PixArtTransformer2DModel(**convert_pixart.export_config(network))
        made.load_state_dict(convert_pixart.export_weights(network))
        more = {
            "encoder_hidden_states": cond.tokens,
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        }

    @torch.no_grad()
    def call():
        return made.eval()(x, timestep=t, **more, return_dict=False)[0]

    return made, call


def read_by_diffusers(theirs, folder, component):
    """By the loader of diffusers' own models; it looks for rank and alpha in the header of the file."""
    file = folder / convert_adapter.LORA_FILE
    theirs.load_lora_adapter(str(folder), weight_name=file.name, prefix=component, use_safetensors=True)


def read_by_peft(theirs, folder, component):
    """By peft alone, for classes of diffusers that have no loader."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    file = folder / convert_adapter.LORA_FILE
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()[convert_adapter.METADATA])
    config = {key.removeprefix(f"{component}."): value for key, value in header.items()}
    inject_adapter_in_model(LoraConfig.from_peft_type(**config), theirs, adapter_name="default")
    state = {key.removeprefix(f"{component}."): value for key, value in load_file(file).items()}
    found = set_peft_model_state_dict(theirs, state)
    assert not found.unexpected_keys


LORAS = ("rslora", "dora", "pissa")  # lora and loha: the table below
READERS = {unet: read_by_diffusers, mmdit: read_by_diffusers, pixart: read_by_peft}


@pytest.mark.parametrize("make", READERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("kind", LORAS)
def test_diffusers_draws_the_same_with_the_written_adapter(kind, make, tmp_path):
    """alpha is not the rank here: a reader that does not find it would scale by 1."""
    network = make()
    theirs, call = as_diffusers(network)
    torch.testing.assert_close(call(), out(network), atol=2e-5, rtol=1e-4)
    inject(network, KINDS[kind])
    train_(network)
    convert_adapter.save_published(network, tmp_path)
    READERS[make](theirs, tmp_path, convert_adapter.published(network).component)
    assert (call() - as_diffusers(make())[1]()).abs().max() > 1e-3
    torch.testing.assert_close(call(), out(network), atol=5e-5, rtol=1e-3)


def test_queries_keys_and_values_get_their_rows():
    network = mmdit()
    inject(network, KINDS["lora"])
    train_(network)
    found, config = convert_adapter.as_lora(network)
    b = adapter_state(network)["blocks.0.image.attention.qkv.lora_B.weight"]
    rows = [found[f"transformer_blocks.0.attn.to_{part}.lora_B.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(rows), b)
    assert config["r"] == 2 and config["lora_alpha"] == 6 and len(config["target_modules"]) == 15


def test_peft_reads_what_is_no_lora(tmp_path):
    import peft

    network = unet()
    theirs, call = as_diffusers(network)
    inject(network, KINDS["lokr"])
    train_(network)
    convert_adapter.save_published(network, tmp_path)
    peft.PeftModel.from_pretrained(theirs, tmp_path)
    torch.testing.assert_close(call(), out(network), atol=5e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", LORAS)
def test_the_layout_of_kohya_is_read_by_diffusers_with_its_alpha(kind, tmp_path):
    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    network = unet()
    theirs, call = as_diffusers(network)
    inject(network, KINDS[kind])
    train_(network)
    file = convert_adapter.save_kohya(network, tmp_path / "kohya.safetensors")
    if kind == "dora":
        scales = [value for name, value in load_file(file).items() if name.endswith(".dora_scale")]
        assert len(scales) == len(injected(network).layers) and all(value.shape[1] == 1 for value in scales)
        return
    state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(load_file(file), unet_config=theirs.config)
    StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, alphas, theirs)
    torch.testing.assert_close(call(), out(network), atol=5e-5, rtol=1e-3)


def loads(make, kind, read):
    """Whether a reader makes the published network of the written adapter, with the outputs of ours."""
    network = make()
    inject(network, KINDS[kind])
    train_(network)
    try:
        theirs, call = as_diffusers(network_without(make))
        read(network, theirs)
    except Exception:  # whatever a library says of a file that it cannot read
        return False
    return bool(torch.allclose(call(), out(network), atol=5e-5, rtol=1e-3))


def network_without(make):
    network = make()
    if convert_adapter.published(network).kind is None:
        raise ValueError("diffusers has no such class")
    return network


def test_a_table_says_what_loads_where(capsys, tmp_path):
    import peft
    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    def component(network):
        return convert_adapter.published(network).component

    def of_diffusers(network, theirs):
        convert_adapter.save_published(network, tmp_path)
        read_by_diffusers(theirs, tmp_path, component(network))

    def of_peft(network, theirs):
        convert_adapter.save_published(network, tmp_path)
        if isinstance(injected(network).adapter, LoRA):
            read_by_peft(theirs, tmp_path, component(network))
        else:
            peft.PeftModel.from_pretrained(theirs, tmp_path)

    def of_kohya(network, theirs):
        file = convert_adapter.save_kohya(network, tmp_path / "kohya.safetensors")
        state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(
            load_file(file), unet_config=theirs.config
        )
        StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, alphas, theirs)

    readers = {"diffusers": of_diffusers, "peft": of_peft, "kohya in diffusers": of_kohya}
    found = {
        (make.__name__, kind): [name for name, read in readers.items() if loads(make, kind, read)]
        for make in (unet, mmdit, pixart, dit)
        for kind in ("lora", "loha")
    }
    with capsys.disabled():
        print(f"\n{'network':<10}{'adapter':<10}loads in")
        for (network, kind), where in found.items():
            print(f"{network:<10}{kind:<10}{', '.join(['t2ilab', *where])}")
    assert found == {
        ("unet", "lora"): ["diffusers", "peft", "kohya in diffusers"],
        ("unet", "loha"): ["peft"],
        ("mmdit", "lora"): ["diffusers", "peft"],
        ("mmdit", "loha"): [],
        ("pixart", "lora"): ["peft"],
        ("pixart", "loha"): [],
        ("dit", "lora"): [],
        ("dit", "loha"): [],
    }


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pissa"])
def test_a_network_whose_adapter_is_switched_off_is_its_base_and_nothing_of_it_is_left_changed(kind):
    network, x = dit(), inputs()
    with torch.no_grad():
        before = network(*x)[0]
    inject(network, KINDS[kind])
    random_adapter = [p for p in network.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in random_adapter:
            p.add_(0.3 * torch.randn_like(p))
    network.train()
    own = network(*x)[0]
    with torch.no_grad():
        base = WithoutAdapter(network, network)(*x)[0]
    assert torch.equal(base, before), "to the last bit"
    assert not torch.allclose(own, base) and network.training
    assert [p for p in network.parameters() if p.requires_grad] == random_adapter
    own.square().sum().backward()  # a graph that was begun before goes through
    assert all(p.grad is not None and p.grad.isfinite().all() for p in random_adapter)
    assert torch.equal(network(*x)[0], own)
