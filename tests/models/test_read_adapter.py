"""Adapters that others have written: what we write ourselves, and what diffusers and peft write, is read back."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2ilab.export.several import is_foreign
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
    torch.testing.assert_close(call(), out(read(mmdit, tmp_path)), atol=5e-5, rtol=1e-3)
    assert is_foreign(str(tmp_path)) and not is_foreign(str(tmp_path.parent))
    assert (out(mmdit()) - call()).abs().max() > 1e-3


def changed_weight(make, layer, tensors, tmp_path):
    """The weight of a layer before and after a file with these factors of it is added, as LyCORIS names them."""
    key = f"lycoris_{layer.removeprefix('network.').replace('.', '_')}"
    save_file({f"{key}.{name}": value for name, value in tensors.items()}, tmp_path / "lycoris.safetensors")
    network = make()
    before = dict(network.named_parameters())[f"{layer}.weight"].detach().clone()
    add_adapter(network, ForeignAdapter.read(tmp_path / "lycoris.safetensors"))
    return before, dict(network.named_parameters())[f"{layer}.weight"].detach()


def test_two_whole_matrices_of_lokr_have_scale_1_whatever_alpha_their_file_names(tmp_path):
    """LyCORIS writes its rank there, 10,000 as a rule, which is nowhere else in the file."""
    w1, w2 = 0.1 * torch.randn(2, 2), 0.1 * torch.randn(8, 8)
    factors = {"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(10000.0)}
    before, after = changed_weight(dit, "blocks.0.attention.out", factors, tmp_path)
    torch.testing.assert_close(after, before + torch.kron(w1, w2))


def test_a_whole_kernel_of_lokr_goes_to_its_place(tmp_path):
    """Element (i A + a, j B + b, y, x) is w1[i, j] w2[a, b, y, x]."""
    w1, w2 = torch.randn(2, 2), torch.randn(4, 4, 3, 3)
    layer = "network.down_blocks.0.resnets.0.conv1"
    before, after = changed_weight(unet, layer, {"lokr_w1": w1, "lokr_w2": w2}, tmp_path)
    change = torch.einsum("ij,abyx->iajbyx", w1, w2).reshape(before.shape)
    torch.testing.assert_close(after, before + change)


def test_norms_of_columns_scale_columns(tmp_path):
    """LyCORIS has them of rows, (out, 1), or of columns, (1, in)."""
    a, b = 0.1 * torch.randn(2, 16), torch.randn(16, 2)
    for shape, axis in (((1, 16), 0), ((16, 1), 1)):
        norms = torch.rand(shape)
        factors = {"lora_down.weight": a, "lora_up.weight": b, "dora_scale": norms}
        before, after = changed_weight(dit, "blocks.0.attention.out", factors, tmp_path)
        moved = before + b @ a
        torch.testing.assert_close(after, norms * moved / moved.norm(dim=axis, keepdim=True))


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
