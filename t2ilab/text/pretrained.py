"""Text encoders of transformers from a folder on this disk: CLIP and T5. Nothing is downloaded.

Texts are padded to one length. With padding=counts the network sees no mask and every position is part of the
condition, padding too, as the networks of Stable Diffusion 1.5, SDXL, SD3 and Flux were trained; with padding=masked
nothing attends to padding, neither in the encoder nor in the denoiser, as in PixArt. A network must be used with the
padding and the length that it was trained with.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.core.folders import local_folder
from t2ilab.core.types import Condition
from t2ilab.text.base import (
    Conditioner,
    Null,
    Padding,
    check_choice,
    check_prompts,
    check_sizes,
    copy_without_weights,
)
from t2ilab.text.words import Extended, without_rows


class _Pretrained(Conditioner):
    """A tokenizer and a text encoder of transformers; what differs is how its output is read."""

    def __init__(
        self,
        folder: Path,
        tokenizer_path: str | None,
        network: nn.Module,
        *,
        length: int,
        padding: Padding,
        null: Null,
        lowercase: bool = False,
    ) -> None:
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
        self.folder = folder
        self.network, self.length, self.lowercase = network.eval(), length, lowercase
        self.padding = check_choice("padding", padding, Padding)
        self.null_text = check_choice("null", null, Null)

    def forward(self, prompts: Sequence[str]) -> Condition:
        batch = self.tokenizer(
            self._texts(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        device = next(self.network.parameters()).device
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        if self.padding == "counts":
            tokens, pooled = self.read(ids, None)
            return Condition(tokens, torch.ones_like(mask, dtype=torch.bool), pooled)
        tokens, pooled = self.read(ids, mask)
        return Condition(tokens * mask[..., None], mask.bool(), pooled)

    def cut(self, prompts: Sequence[str]) -> int:
        found = self.tokenizer(self._texts(prompts), truncation=False, verbose=False)["input_ids"]
        return sum(len(ids) > self.length for ids in found)

    def pieces(self, word: str) -> list[str]:
        before, whole = (self.tokenizer.tokenize(text) for text in self._texts(["a", f"a {word}"]))
        return list(whole[len(before) :])

    def add_words(self, tokens: Sequence[str]) -> dict[str, nn.Parameter]:
        from tokenizers import AddedToken

        first = len(self.tokenizer)
        self.tokenizer.add_tokens([AddedToken(token, lstrip=True, normalized=False) for token in tokens])
        network: Any = self.network
        table = Extended(network.get_input_embeddings(), first, len(tokens))
        network.set_input_embeddings(table)
        return {"": table.rows}

    def vectors(self, word: str) -> dict[str, Tensor]:
        ids = self.tokenizer(*self._texts([word]), add_special_tokens=False)["input_ids"]
        network: Any = self.network
        return {"": network.get_input_embeddings().weight.detach()[ids].float()}

    def save(self, folder: Path) -> None:
        copy_without_weights(self.folder, folder)
        network: Any = self.network
        network.save_pretrained(folder, state_dict=without_rows(network.state_dict()))

    @abstractmethod
    def read(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, L, D) and pooled (B, P) or None of ids (B, L), and of a mask (B, L) if padding is masked."""

    def _texts(self, prompts: Sequence[str]) -> list[str]:
        texts = check_prompts(prompts)
        return [text.lower().strip() for text in texts] if self.lowercase else texts


class CLIPText(_Pretrained):
    """The text encoder of a CLIP: hidden states of one layer and the vector of the end token.

    Args:
        path: folder of a CLIPTextModelWithProjection (`text_encoder_2` of SDXL, `text_encoder` of SD3);
            without a projected pooled vector a CLIPTextModel serves as well (`text_encoder` of SD 1 and Flux).
        tokenizer_path: folder of its tokenizer; None if that is the same folder.
        dim, pooled_dim, length: what other parts of the config rely on; 77 tokens at most.
        skip: how many of the last layers the tokens leave out: 0 (with the final norm) in SD 1, 1 in SDXL and SD3.
        project: whether the pooled vector passes the projection to the common space, as in SDXL and SD3; Flux takes
            it as it is.
        padding: `counts` or `masked`, see above.
        null: the null condition, `empty`, `zeros` or `learned`, see `Conditioner`; zeros in SDXL.
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
        project: bool = True,
        padding: Padding = "masked",
        null: Null = "empty",
    ) -> None:
        folder = local_folder(path, "conditioner.path")
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        projected = project and pooled_dim is not None
        network = _loaded(CLIPTextModelWithProjection if projected else CLIPTextModel, folder)
        super().__init__(folder, tokenizer_path, network, length=length, padding=padding, null=null)
        config = network.config
        width = config.projection_dim if projected else config.hidden_size
        found = {
            "dim": config.hidden_size,
            "pooled_dim": None if pooled_dim is None else width,
            "length": min(length, config.max_position_embeddings),
        }
        check_sizes(str(folder), {"dim": dim, "pooled_dim": pooled_dim, "length": length}, found)
        if not 0 <= skip < config.num_hidden_layers:
            raise ValueError(f"conditioner.skip must be from 0 to {config.num_hidden_layers - 1}, got {skip}")
        self.dim, self.pooled_dim, self.skip, self.projected = dim, pooled_dim, skip, projected

    def read(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        out = self.network(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        tokens = out.hidden_states[-1 - self.skip] if self.skip else out.last_hidden_state
        if self.pooled_dim is None:
            return tokens, None
        return tokens, out.text_embeds if self.projected else out.pooler_output

    def add_words(self, tokens: Sequence[str]) -> dict[str, nn.Parameter]:
        found = super().add_words(tokens)
        for module in self.network.modules():  # with 2 the end is where the largest id is: that of a new word
            if getattr(module, "eos_token_id", None) == 2 and self.tokenizer.eos_token_id is not None:
                module.eos_token_id = self.tokenizer.eos_token_id
        return found


class T5Text(_Pretrained):
    """The encoder of a T5: its last hidden states; it has no pooled vector.

    Args:
        path: folder of a T5 or T5EncoderModel.
        tokenizer_path: folder of its tokenizer; None if that is the same folder.
        dim, pooled_dim, length: what other parts of the config rely on; pooled_dim must be None.
        padding: `counts` or `masked`, see above.
        null: the null condition, `empty`, `zeros` or `learned`, see `Conditioner`.
        lowercase: put texts into lower case and strip them first, as PixArt does.
    """

    def __init__(
        self,
        *,
        path: str | None,
        tokenizer_path: str | None,
        dim: int,
        pooled_dim: None = None,
        length: int,
        padding: Padding = "masked",
        null: Null = "empty",
        lowercase: bool = False,
    ) -> None:
        folder = local_folder(path, "conditioner.path")
        from transformers import T5EncoderModel

        network = _loaded(T5EncoderModel, folder)
        super().__init__(
            folder, tokenizer_path, network, length=length, padding=padding, null=null, lowercase=lowercase
        )
        found = {"dim": network.config.d_model, "pooled_dim": None}
        check_sizes(str(folder), {"dim": dim, "pooled_dim": pooled_dim}, found)
        self.dim, self.pooled_dim = dim, None

    def read(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
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
            + ("; it has no projected vector: set conditioner.pooled_dim=null" if plain else "")
        )
    return network
