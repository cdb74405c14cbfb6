"""Text encoders of transformers from a folder on this disk: CLIP and T5. Nothing is downloaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from t2ilab.core.folders import local_folder
from t2ilab.core.types import Condition
from t2ilab.text.base import Conditioner, check_prompts, check_sizes


class _Pretrained(Conditioner):
    """A tokenizer and a text encoder of transformers; what differs is how its output is read."""

    cuts = True

    def __init__(self, folder: Path, tokenizer_path: str | None, network: nn.Module, *, length: int) -> None:
        super().__init__()
        from transformers import AutoTokenizer

        place = (
            folder if tokenizer_path is None else local_folder(tokenizer_path, "conditioner.tokenizer_path")
        )
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"conditioner.tokenizer_path: {place} holds no tokenizer ({error}); in a diffusers folder it "
                "is the subfolder tokenizer"
            ) from error
        if length < 1:
            raise ValueError(f"conditioner.length must be at least 1, got {length}")
        self.network, self.length = network.eval(), length

    def forward(self, prompts: Sequence[str]) -> Condition:
        batch = self.tokenizer(
            check_prompts(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        device = next(self.network.parameters()).device
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        tokens, pooled = self.read(ids, mask)
        return Condition(tokens * mask[..., None], mask.bool(), pooled)

    @abstractmethod
    def read(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, L, D) and pooled (B, P) or None of ids and mask (B, L)."""


class CLIPText(_Pretrained):
    """The text encoder of a CLIP: hidden states of one layer and the projected vector of the end token.

    Args:
        path: folder of a CLIPTextModelWithProjection (`text_encoder_2` of SDXL, `text_encoder` of SD3);
            without pooled_dim a CLIPTextModel serves as well (`text_encoder` of SD 1 and 2).
        tokenizer_path: folder of its tokenizer; None if that is the same folder.
        dim, pooled_dim, length: what other parts of the config rely on; 77 tokens at most.
        skip: how many of the last layers the tokens leave out: 0 (with the final norm) in SD 1, 1 in SDXL.
    """

    def __init__(
        self,
        *,
        path: str | None,
        tokenizer_path: str | None,
        dim: int,
        pooled_dim: int | None,
        length: int,
        skip: int = 1,
    ) -> None:
        folder = local_folder(path, "conditioner.path")
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        network = _loaded(CLIPTextModel if pooled_dim is None else CLIPTextModelWithProjection, folder)
        super().__init__(folder, tokenizer_path, network, length=length)
        config = network.config
        found = {
            "dim": config.hidden_size,
            "pooled_dim": None if pooled_dim is None else config.projection_dim,
            "length": min(length, config.max_position_embeddings),
        }
        check_sizes(str(folder), {"dim": dim, "pooled_dim": pooled_dim, "length": length}, found)
        if not 0 <= skip < config.num_hidden_layers:
            raise ValueError(f"conditioner.skip must be from 0 to {config.num_hidden_layers - 1}, got {skip}")
        self.dim, self.pooled_dim, self.skip = dim, pooled_dim, skip

    def read(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        out = self.network(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        tokens = out.hidden_states[-1 - self.skip] if self.skip else out.last_hidden_state
        return tokens, None if self.pooled_dim is None else out.text_embeds


class T5Text(_Pretrained):
    """The encoder of a T5: its last hidden states; it has no pooled vector.

    Args:
        path: folder of a T5 or T5EncoderModel.
        tokenizer_path: folder of its tokenizer; None if that is the same folder.
        dim, pooled_dim, length: what other parts of the config rely on; pooled_dim must be None.
    """

    def __init__(
        self, *, path: str | None, tokenizer_path: str | None, dim: int, pooled_dim: None = None, length: int
    ) -> None:
        folder = local_folder(path, "conditioner.path")
        from transformers import T5EncoderModel

        network = _loaded(T5EncoderModel, folder)
        super().__init__(folder, tokenizer_path, network, length=length)
        found = {"dim": network.config.d_model, "pooled_dim": None}
        check_sizes(str(folder), {"dim": dim, "pooled_dim": pooled_dim}, found)
        self.dim, self.pooled_dim = dim, None

    def read(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.network(input_ids=ids, attention_mask=mask).last_hidden_state, None


def _loaded(network_class: Any, folder: Path) -> Any:
    """The network in `folder`; raises ValueError if there is none or if it lacks weights."""
    try:
        network, info = network_class.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except OSError as error:
        raise ValueError(f"conditioner.path: {folder} holds no {network_class.__name__} ({error})") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])[:3]
        plain = all("text_projection" in key for key in info["missing_keys"])
        raise ValueError(
            f"conditioner.path: {folder} lacks weights of {network_class.__name__}, such as {missing}"
            + ("; it has no pooled vector: set conditioner.pooled_dim=null" if plain else "")
        )
    return network
