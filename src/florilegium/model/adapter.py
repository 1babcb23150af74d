"""The adapter: LoRA by PEFT on the frozen base, what of it trains, and its folder on disk.

An adapter folder is PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`, the tokenizer, a filled `README.md`), which stock
Transformers and PEFT load, and beside it `florilegium.json`: the template, the digests of the base and tokenizer it was made for, how
training rows begin. PEFT loads an adapter onto any base of the same shape without a word; `load_adapter` compares the digests first.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from florilegium.config import TrainConfig
from florilegium.errors import ModelError, UsageError
from florilegium.model.base import Base
from florilegium.run import disk_errors, sync_folder, umask

FUSED = ("query_key_value", "qkv_proj", "Wqkv", "c_attn", "W_pack")
SEPARATE = ("q_proj", "k_proj", "v_proj")
FACTS = "florilegium.json"
FORMAT = 1


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
    """Writes the adapter to `folder`, whole or not at all. `facts` go to florilegium.json, `card` to README.md; `state` replaces the
    live weights, e.g. with the best ones seen. Raises ResourceError when the disk refuses."""
    from safetensors.torch import save_file

    lora = model.peft_config["default"]
    tensors = dict(state if state is not None else adapter_state(model))
    with disk_errors(folder):
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            save_file(tensors, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
            values = {**_plain(lora.to_dict()), "base_model_name_or_path": base.name, "inference_mode": True}
            (temporary / "adapter_config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            base.tokenizer.save_pretrained(temporary)
            (temporary / FACTS).write_text(json.dumps(dict(facts), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            (temporary / "README.md").write_text(card, encoding="utf-8")
            _settle(temporary)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
            sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _plain(value: Any) -> Any:
    """PEFT's config as JSON: its enums and sets become text and sorted lists."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(getattr(value, "value", value))


def _settle(folder: Path) -> None:
    """Files readable as the umask allows (safetensors writes 0600), and on disk."""
    mask = umask()
    folder.chmod(0o777 & ~mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def read_facts(folder: Path) -> dict[str, Any]:
    """florilegium.json of an adapter folder, or an empty dict for an adapter that others made. Raises ModelError when it is broken."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise ModelError(f"{folder / FACTS} cannot be read", "Copy the adapter again, or train it again")
    return facts


def load_adapter(base: Base, folder: Path) -> Any:
    """The base with the adapter of `folder` on it, ready to generate. Raises ModelError when it was made for another base."""
    from peft import PeftModel

    facts = read_facts(folder)
    check_fit(base, facts, folder)
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder} has no adapter_model.safetensors", "Pickled adapters are not read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(base.model, str(folder))
    except Exception as error:  # PEFT, safetensors and torch each raise their own kinds on a broken or unfitting adapter
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ModelError(f"the adapter in {folder} does not load on {base.name} ({first})", "Name its base with --model") from error
    return model.eval()


def check_fit(base: Base, facts: Mapping[str, Any], folder: Path) -> None:
    """Compares what the adapter was made for with the base at hand. Raises ModelError that says which differs."""
    made_for = facts.get("base", {})
    here = base_facts(base)
    for key in ("model_type", "hidden_size", "num_layers", "vocab_size", "digest", "tokenizer_digest"):
        if key in made_for and made_for[key] != here[key]:
            what = {"digest": "weights", "tokenizer_digest": "tokenizer"}.get(key, key)
            detail = "" if "digest" in key else f" ({made_for[key]}, here {here[key]})"
            raise ModelError(
                f"the adapter in {folder} was made for {made_for.get('name')}, and {base.name} has another {what}{detail}",
                f"Use --model {made_for.get('name')}",
            )


def base_facts(base: Base) -> dict[str, Any]:
    """What identifies a base: name, shape, digests."""
    config = base.model.config.get_text_config()
    return {
        "name": base.name,
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
        "digest": base.digest,
        "tokenizer_digest": base.tokenizer_digest,
    }
