"""What tells one base from another: digests of its weights and its tokenizer, and the shape that no tensor shows.

An adapter remembers them, a run's manifest too, and both are compared before anything is computed. A folder that
`florilegium export MODEL --to quantised` made says in its export.json which 16-bit weights it was made from: what was
trained on the one goes on the other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from florilegium.errors import ModelError
from florilegium.model.untrusted import read_json
from florilegium.model.weight_files import WeightFiles
from florilegium.storage.json_record import JsonRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from florilegium.model.base import Base

PROBE = "It's 3,14\u2014\u201c\u00catre\u201d \u00e9 e\u0301 ->: 数学, हिन्दी; don't\n\t  STOP... ﬁne"
EXPORTED = "export.json"  # what an export says of itself
DIGEST_SLICES, DIGEST_SLICE_BYTES = 64, 65_536
# What the same weights are computed with: none of it shows in a tensor's size.
SHAPE = (
    "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "activation_function", "layer_norm_epsilon", "rms_norm_eps",
    "rope_theta", "apply_residual_connection_post_layernorm", "tie_word_embeddings", "sliding_window",
)  # fmt: skip


Compared = object  # a number or a string; a file may hold anything else there, which equals no base of ours


@dataclass(frozen=True)
class BaseFacts(JsonRecord):
    """What identifies a base, as an adapter and a run's manifest remember it; None where they do not say."""

    name: str | None = None
    model_type: Compared = None
    hidden_size: Compared = None
    num_layers: Compared = None
    vocab_size: Compared = None
    shape: dict[str, Compared] | None = None
    digest: str | None = None
    tokenizer_digest: str | None = None
    original_digest: str | None = None  # of the 16-bit weights that these were quantised from, where that is known

    def to_json(self) -> dict[str, object]:
        return {name: value for name, value in super().to_json().items() if value is not None}


def base_facts(base: Base) -> BaseFacts:
    """What identifies a base: name, shape, digests."""
    config = base.model.config.get_text_config()
    values = {name: getattr(config, name, None) for name in SHAPE}
    return BaseFacts(
        name=base.name,
        model_type=config.model_type,
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        vocab_size=config.vocab_size,
        shape={name: value for name, value in values.items() if isinstance(value, (bool, int, float, str))},
        digest=base.digest,
        tokenizer_digest=base.tokenizer_digest,
        original_digest=base.original_digest or None,
    )


def same_weights(one: BaseFacts, other: BaseFacts) -> bool:
    """Whether two bases are the same one, be it quantised beforehand or as it is loaded."""
    mine, theirs = ({facts.digest, facts.original_digest} - {None} for facts in (one, other))
    return bool(mine & theirs)


def original_digest(folder: Path, digest: str) -> str:
    """The digest of the 16-bit weights that those in `folder`, which have this `digest`, were quantised from; empty where
    its export.json does not say so of these very weights."""
    try:
        facts = read_json(folder / EXPORTED, str(folder / EXPORTED)) if (folder / EXPORTED).is_file() else {}
    except ModelError:
        return ""
    original = facts.get("weights")
    return original if isinstance(original, str) and facts.get("quantised_weights") == digest else ""


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 over what decides a text's ids: vocabulary, special tokens, merges, and (for what comes before the merges,
    whose description changes with the library's version) the ids of PROBE."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    merges = json.loads(backend.to_str())["model"].get("merges", []) if backend is not None else []
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    parts = [
        sorted(tokenizer.get_vocab().items()),
        str(tokenizer.special_tokens_map),
        pairs,
        tokenizer(PROBE)["input_ids"],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def weights_digest(files: WeightFiles) -> str:
    """sha256 over name, size and 64 evenly spread slices of each weight file: tells two models apart without reading 14
    GB. A header says what kind and shape each tensor has, so one that reaches beyond the first slice counts whole."""
    digest = hashlib.sha256()
    for path in files.paths:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            header_bytes = 8 + int.from_bytes(file.read(8), "little")
            if header_bytes > DIGEST_SLICE_BYTES:
                file.seek(0)
                digest.update(file.read(header_bytes))
            for i in range(DIGEST_SLICES):
                file.seek(max(0, size - DIGEST_SLICE_BYTES) * i // (DIGEST_SLICES - 1))
                digest.update(file.read(DIGEST_SLICE_BYTES))
    return digest.hexdigest()
