"""The adapter: LoRA by PEFT on the frozen base, what of it trains, and its folder on disk.

An adapter folder is PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`, the tokenizer, a filled `README.md`), which stock
Transformers and PEFT load, and beside it `florilegium.json`: the template, the digests of the base and tokenizer it was made for, how
training rows begin, the sums of its files. PEFT loads an adapter onto any base of the same shape without a word, and one that is
damaged too; `load_adapter` compares the digests first. An adapter that others made is read as well, as data (`untrusted.py`).
"""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from florilegium.commit import Unvouched, commit_folder, read_vouched
from florilegium.config import TrainConfig
from florilegium.data import Template
from florilegium.errors import ModelError, UsageError
from florilegium.model.base import Base
from florilegium.model.numbers import check_tensors
from florilegium.model.tensor_file import read_header, tensor_bytes, tensor_pieces
from florilegium.model.untrusted import lora_values, read_json
from florilegium.run import disk_errors, set_aside

FUSED = ("query_key_value", "qkv_proj", "Wqkv", "c_attn", "W_pack")
SEPARATE = ("q_proj", "k_proj", "v_proj")
FACTS = "florilegium.json"
ESSENTIAL = ("r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "bias")  # a change here changes every weight's meaning
# What the same weights are computed with: none of it shows in a tensor's size.
SHAPE = (
    "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "activation_function", "layer_norm_epsilon", "rms_norm_eps",
    "rope_theta", "apply_residual_connection_post_layernorm", "tie_word_embeddings", "sliding_window",
)  # fmt: skip
FACT_KINDS: dict[str, Any] = {
    "base": dict, "bits": int, "files": dict, "list_columns": list, "lora": dict, "openings": dict, "revision": (str, type(None)),
    "template": str,
}  # fmt: skip


@dataclass(frozen=True)
class ParameterCount:
    """How many parameters train, and of how many: 0.111% on bloom-7b1 with rank 16."""

    trained: int
    total: int

    @property
    def share(self) -> float:
        return self.trained / self.total


def attach_adapter(base: Base, config: TrainConfig) -> Any:
    """The base with fresh LoRA on it: a PEFT model whose adapter is float32 and alone takes gradients. Seed before you call."""
    from peft import LoraConfig, get_peft_model

    init: Any = True if config.init_lora == "default" else config.init_lora
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=target_modules(base.model, config.target_modules),
        use_rslora=config.rslora,
        use_dora=config.dora,
        init_lora_weights=init,
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(base.model, lora)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(f"no adapter fits {base.name} ({error})", "Name its linear layers with --target-modules") from error
    return model


def check_adapter(base: Base, config: TrainConfig) -> None:
    """What can be known of the adapter before anything is written. Raises UsageError for modules that the base lacks, and for a rank
    beyond its widest projection, which would take memory without end and could not say more than the projection itself."""
    target_modules(base.model, config.target_modules)
    widest = 4 * base.model.config.get_text_config().hidden_size
    if config.rank > widest:
        raise UsageError(f"--rank is {config.rank}, and the widest projection of {base.name} is {widest}", "16 is usual, 64 is much")


def target_modules(model: Any, request: str) -> list[str] | str:
    """The linears that LoRA goes on. 'auto': the family's fused projection, else query, key and value, else every linear."""
    if request == "all-linear":
        return request
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if hasattr(module, "weight")}
    if request != "auto":
        wanted = [name.strip() for name in request.split(",") if name.strip()]
        for name in wanted:
            if name.rsplit(".", 1)[-1] not in names:
                listed = ", ".join(sorted(n for n in names if not n.isdigit())[:12])
                raise UsageError(f"--target-modules: {name!r} is not in this model", f"It has {listed}; or use auto")
        return wanted
    fused = [name for name in FUSED if name in names]
    separate = [name for name in SEPARATE if name in names]
    return fused or separate or "all-linear"


def count_parameters(model: Any) -> ParameterCount:
    """Parameters that train, and all of them; a packed 4-bit weight counts as the numbers it stands for. Works on the meta device."""
    trained = total = 0
    for parameter in model.parameters():
        shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
        size = math.prod(shape) if shape is not None else parameter.numel()
        total += size
        trained += size if parameter.requires_grad else 0
    return ParameterCount(trained, total)


def adapter_state(model: Any) -> dict[str, torch.Tensor]:
    """The adapter's tensors under PEFT's names, on the CPU: what is saved, and nothing of the base."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}


def set_adapter_state(model: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Puts tensors from `adapter_state` back. Raises ModelError when they are not this adapter's."""
    from peft import set_peft_model_state_dict

    result = set_peft_model_state_dict(model, dict(state))
    if result.unexpected_keys or any("lora_" in key for key in result.missing_keys):
        raise ModelError("the saved adapter does not fit this model", "Use the base model and --rank it was trained with")


def save_adapter(model: Any, base: Base, folder: Path, facts: Mapping[str, Any], card: str, state: Mapping[str, Any] | None = None) -> None:
    """Writes the adapter to `folder`, whole or not at all; a folder that is there is set aside as `<folder>.old-N`. `facts` go to
    florilegium.json with the sums of the files, `card` to README.md; `state` replaces the live weights, e.g. with the best ones seen.

    Raises ResourceError when the disk refuses, DivergedError when a weight is no number; then nothing is written.
    """
    tensors = dict(state if state is not None else adapter_state(model))
    check_tensors(tensors, "the adapter")
    values = {**_plain(model.peft_config["default"].to_dict()), "base_model_name_or_path": base.name, "inference_mode": True}
    with disk_errors(folder, tensor_bytes(tensors) + (1 << 20)):
        small = {
            "adapter_config.json": (json.dumps(values, indent=2, sort_keys=True) + "\n").encode(),
            **_tokenizer_files(base, folder.parent),
            "README.md": card.encode(),
        }
        if folder.exists() or folder.is_symlink():
            set_aside(folder)
    files = {"adapter_model.safetensors": tensor_pieces(tensors, {"format": "pt"}), **{name: [data] for name, data in small.items()}}
    needed = tensor_bytes(tensors) + 256 * len(tensors) + sum(map(len, small.values()))
    lora = {name: values.get(name) for name in ESSENTIAL}
    commit_folder(folder, files, {**facts, "lora": lora}, needed=needed, manifest=FACTS)


def _tokenizer_files(base: Base, beside: Path) -> dict[str, bytes]:
    """What `save_pretrained` writes, as bytes: it writes files by itself, which nobody would flush or sum."""
    with tempfile.TemporaryDirectory(dir=beside, prefix=".tokenizer.", suffix=".tmp") as folder:
        base.tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _plain(value: Any) -> Any:
    """PEFT's config as JSON: its enums and sets become text and sorted lists."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(getattr(value, "value", value))


def read_facts(folder: Path) -> dict[str, Any]:
    """florilegium.json of an adapter folder, or an empty dict for an adapter that others made. Raises ModelError when it is broken, or
    holds something else than what stands there: it decides which model is loaded."""
    if not (folder / FACTS).is_file():
        return {}
    what = str(folder / FACTS)
    facts = read_json(folder / FACTS, what)
    for name, kinds in FACT_KINDS.items():
        if name in facts and not isinstance(facts[name], kinds):
            raise ModelError(f"{what} cannot be read: {name} is {str(facts[name])[:40]!r}", "Copy the adapter again, or train it again")
    name = facts.get("base", {}).get("name")
    if name is not None and (not isinstance(name, str) or "\0" in name or len(name) > 4096):
        raise ModelError(f"{what} cannot be read: its base's name is none", "Name the base with --model")
    _check_words(facts, what)
    return facts


def _check_words(facts: Mapping[str, Any], what: str) -> None:
    """The template must be one, and the openings words with counts: both are used long after the file was read."""
    openings, lists = facts.get("openings", {}), facts.get("list_columns", [])
    counts = all(type(count) is int and 0 <= count < 1 << 53 for count in openings.values())
    if not counts or not all(isinstance(name, str) for name in lists):
        raise ModelError(f"{what} cannot be read: its openings or list columns are none", "Copy the adapter again, or train it again")
    if "template" in facts:
        try:
            Template.from_text(facts["template"])
        except UsageError as error:
            raise ModelError(f"{what} cannot be used: {error.cause}", "Copy the adapter again, or train it again") from None


def load_adapter(base: Base, folder: Path) -> Any:
    """The base with the adapter of `folder` on it, ready to generate. Raises ModelError when it was made for another base, is damaged,
    or asks for anything but LoRA."""
    from peft import LoraConfig, PeftModel

    facts = read_facts(folder)
    check_fit(base, facts, folder)
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder} has no adapter_model.safetensors", "Pickled adapters are not read")
    values = lora_values(folder, base.model.config.get_text_config().hidden_size)
    _check_whole(folder, facts, values)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(base.model, str(folder), config=LoraConfig(**values))
    except Exception as error:  # PEFT, safetensors and torch each raise their own kinds on a broken or unfitting adapter
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ModelError(f"the adapter in {folder} does not load on {base.name} ({first})", "Name its base with --model") from error
    _check_all_used(model, folder, base)
    return model.eval()


def _check_whole(folder: Path, facts: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Compares weights and LoRA's settings with what florilegium.json remembers of them; adapters that others made have no memory."""
    fix = "Copy the adapter again; florilegium resume RUN writes that of its run again once the broken one is removed"
    if "files" in facts:
        try:
            read_vouched(folder, ["adapter_model.safetensors"], FACTS)
        except Unvouched as error:
            raise ModelError(f"the adapter in {folder} is not as it was saved: {error}", fix) from None
    for name, value in facts.get("lora", {}).items():
        if name in ESSENTIAL and values.get(name) != value:
            raise ModelError(f"the adapter_config.json in {folder} says {name} is {values.get(name)}, and it was made with {value}", fix)


def _check_all_used(model: Any, folder: Path, base: Base) -> None:
    """Every LoRA matrix of the file must have found its place: PEFT drops those that have none with a warning at most."""
    header = read_header(folder / "adapter_model.safetensors", f"the adapter in {folder}")
    mine = set(adapter_state(model))
    for name, others, what in (("has", header.keys() - mine, "lacks"), ("lacks", mine - header.keys(), "has")):
        matrices = sorted(other for other in others if ".lora_" in other)
        if matrices:
            cause = f"the adapter in {folder} {name} {len(matrices)} matrices that {base.name} {what} ({matrices[0]})"
            raise ModelError(cause, "It was made for another model: name that one with --model")


def check_fit(base: Base, facts: Mapping[str, Any], folder: Path) -> None:
    """Compares what the adapter was made for with the base at hand. Raises ModelError that says which differs."""
    made_for = facts.get("base", {})
    mine, theirs = _flat(base_facts(base)), _flat(made_for)
    for key in [key for key in mine if key in theirs and mine[key] != theirs[key]]:
        what = {"digest": "weights", "tokenizer_digest": "tokenizer"}.get(key, key)
        detail = "" if "digest" in key else f" ({str(theirs[key])[:40]}, here {mine[key]})"
        raise ModelError(
            f"the adapter in {folder} was made for {made_for.get('name')}, and {base.name} has another {what}{detail}",
            f"Use --model {made_for.get('name')}",
        )


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """base_facts without the name, the shape's entries among the others, shapes before digests: they say more."""
    shape = facts.get("shape")
    values = {**facts, **(shape if isinstance(shape, dict) else {})}
    order = sorted(values, key=lambda key: "digest" in key)
    return {key: values[key] for key in order if key not in ("name", "shape")}


def base_facts(base: Base) -> dict[str, Any]:
    """What identifies a base: name, shape, digests."""
    config = base.model.config.get_text_config()
    return {
        "name": base.name,
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
        "shape": {name: value for name in SHAPE if isinstance(value := getattr(config, name, None), (bool, int, float, str))},
        "digest": base.digest,
        "tokenizer_digest": base.tokenizer_digest,
    }
