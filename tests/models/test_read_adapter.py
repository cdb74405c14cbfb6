"""Adapters that others have written: what we write ourselves, and what diffusers and peft write, is read back."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2ilab.models import convert_adapter
from t2ilab.models.adapters import LoRA
from t2ilab.models.injection import inject
from t2ilab.models.read_adapter import ForeignAdapter, add_adapter
from tests.models.test_adapters import KINDS, as_diffusers, dit, mmdit, out, pixart, train_, unet

NETWORKS = {"unet": unet, "mmdit": mmdit, "pixart": pixart, "dit": dit}


def adapted(make, kind):
    network = make()
    inject(network, KINDS[kind])
    train_(network)
    return network


def read(make, path, scale=1.0):
    return add_adapter(make(), ForeignAdapter.read(path), scale)


def written(network, folder, layout):
    if layout == "kohya":
        return convert_adapter.save_kohya(network, folder / "kohya.safetensors")
    (first, *more) = convert_adapter.save_published(network, folder)
    return folder if more else first


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_we_write_is_read_back_in_every_layout(kind, make, tmp_path):
    network = adapted(make, kind)
    layouts = ("published", "kohya") if isinstance(KINDS[kind], LoRA) else ("published",)
    for layout in layouts:
        path = written(network, tmp_path / layout, layout)
        torch.testing.assert_close(out(read(make, path)), out(network), atol=5e-5, rtol=1e-3)
    assert (out(make()) - out(network)).abs().max() > 1e-3


def test_a_scale_is_the_share_of_the_change(tmp_path):
    network = adapted(mmdit, "dora")
    path = written(network, tmp_path, "published")
    base, whole, half = (dict(read(mmdit, path, s).named_parameters()) for s in (0.0, 1.0, 0.5))
    for name, value in mmdit().named_parameters():
        assert torch.equal(base[name], value)
        torch.testing.assert_close(half[name], (value + whole[name]) / 2)


@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_writes_is_read(rslora, tmp_path):
    import peft

    theirs, call = as_diffusers(unet())
    config = peft.LoraConfig(
        r=2,
        lora_alpha=6,
        use_rslora=rslora,
        target_modules=["to_q", "to_v", "conv1"],
        init_lora_weights=False,
        alpha_pattern={"to_v": 3},
    )
    wrapped = peft.get_peft_model(theirs, config)
    wrapped.save_pretrained(tmp_path)
    torch.testing.assert_close(call(), out(read(unet, tmp_path)), atol=5e-5, rtol=1e-3)
    assert (out(unet()) - call()).abs().max() > 1e-3


def test_what_diffusers_writes_is_read(tmp_path):
    import peft

    theirs, call = as_diffusers(mmdit())
    targets = ["attn.to_q", "attn.to_k", "attn.add_v_proj"]
    theirs.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False))
    theirs.save_lora_adapter(str(tmp_path))
    (file,) = tmp_path.glob("*.safetensors")
    torch.testing.assert_close(call(), out(read(mmdit, file)), atol=5e-5, rtol=1e-3)
    assert (out(mmdit()) - call()).abs().max() > 1e-3


def test_what_does_not_fit_is_refused(tmp_path):
    path = written(adapted(mmdit, "lora"), tmp_path / "lora", "published")
    with pytest.raises(
        ValueError, match="an adapter of another network: there are no layers transformer_blocks"
    ):
        read(dit, path)
    state = load_file(path)
    save_file({**state, "text_encoder.q.lora_A.weight": torch.zeros(1)}, tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="adapts a text encoder too"):
        ForeignAdapter.read(tmp_path / "text.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="holds weight, which belongs to no LoRA"):
        ForeignAdapter.read(tmp_path / "none.safetensors")
    save_file({k: v for k, v in state.items() if "lora_B" not in k}, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="lacks a factor of a layer: 'B'"):
        read(mmdit, tmp_path / "half.safetensors")
    save_file({k: v[..., :-1].contiguous() for k, v in state.items()}, tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="does not fit the layer"):
        read(mmdit, tmp_path / "small.safetensors")
