"""The adapter: LoRA by PEFT on the frozen base, what of it trains, and its folder on disk.

An adapter folder is PEFT's layout (`adapter_config.json`, `adapter_model.safetensors`, the tokenizer, a filled
`README.md`), which stock Transformers and PEFT load, and beside it `florilegium.json`: the template, the digests of the
base and tokenizer it was made for, how training rows begin, the sums of its files. It is read again by
`adapter_loading.py`."""

from __future__ import annotations

import json
import math
import re
import tempfile
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from florilegium.config import TrainConfig
from florilegium.errors import ModelError, UsageError, reason_of
from florilegium.model.adapter_facts import FACTS, AdapterFacts
from florilegium.model.base import Base
from florilegium.model.base_changes import recording
from florilegium.model.bitsandbytes_import import before_peft
from florilegium.model.families import family_of
from florilegium.model.families.base import inner_model
from florilegium.model.load_errors import ONE_LOAD_AT_A_TIME
from florilegium.model.row_dropout import draw_by_rows
from florilegium.storage.atomic_files import disk_errors
from florilegium.storage.atomic_folders import commit_folder
from florilegium.storage.finite import check_tensors
from florilegium.storage.run_lock import set_aside
from florilegium.storage.safetensors_io import tensor_bytes, tensor_pieces

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel

    from florilegium.model.families.base import AnyModel

# a change here changes every weight's meaning
ESSENTIAL = ("r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "bias")


@dataclass(frozen=True)
class ParameterCount:
    """How many parameters train, and of how many: 0.111% on bloom-7b1 with rank 16."""

    trained: int
    total: int

    @property
    def share(self) -> float:
        return self.trained / self.total


def attach_adapter(base: Base, config: TrainConfig, like: Collection[str] = ()) -> PeftModel:
    """The base with fresh LoRA on it: a PEFT model whose adapter is float32 and alone takes gradients. Seed before you
    call. `like`: as for `lora_config`."""
    from peft import get_peft_model

    lora = lora_config(base.model, config, like)
    try:
        with ONE_LOAD_AT_A_TIME, warnings.catch_warnings(), recording(base.model, lora) as base.replaced:
            warnings.simplefilter("ignore")
            model = get_peft_model(base.model, lora)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(
            f"no adapter fits {base.name} ({reason_of(error)})", "Name its linear layers with --target-modules"
        ) from error
    draw_by_rows(model)
    return model


def lora_config(model: AnyModel, config: TrainConfig, like: Collection[str] = ()) -> LoraConfig:
    """PEFT's settings of the adapter that `config` asks for on `model`. `like` are the modules that an adapter which is
    trained further lies on: what 'auto' chose when it was made may be others than it would choose now."""
    before_peft()
    from peft import LoraConfig

    init: Any = True if config.lora_init == "default" else config.lora_init
    if like and config.target_modules == "auto":
        targets: list[str] | str = sorted({name.rsplit(".", 1)[-1] for name in like})
    else:
        targets = target_modules(model, config.target_modules)
    beside = beside_the_text(model)
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # PEFT divides by the rank: any number will do
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        exclude_modules=None if any(re.fullmatch(beside, name) for name in like) else beside or None,
        use_rslora=config.rslora,
        use_dora=config.dora,
        init_lora_weights=init,
        task_type="CAUSAL_LM",
    )


def check_rank(model: AnyModel, name: str, rank: int) -> None:
    """Raises UsageError for a rank beyond the widest projection, which would take memory without end and could not say
    more than the projection itself."""
    widest = 4 * model.config.get_text_config().hidden_size
    if rank > widest:
        raise UsageError(
            f"--lora-rank {rank} exceeds the widest projection of {name} ({widest:,})", "Typical values are 8 to 64"
        )


def target_modules(model: AnyModel, request: str) -> list[str] | str:
    """The linears that LoRA goes on. 'auto': the family's own choice."""
    if request == "all-linear":
        return request
    if request == "auto":
        return family_of(model.config.model_type).lora_targets(model)
    takes = {name: module for name, module in model.named_modules() if _takes_lora(module)}
    wanted = [name.strip() for name in request.split(",") if name.strip()]
    for name in wanted:
        if not any(full == name or full.endswith(f".{name}") for full in takes):
            head = model.get_output_embeddings()
            leaves = {full.rsplit(".", 1)[-1] for full, module in takes.items() if module is not head}
            listed = ", ".join(sorted(leaf for leaf in leaves if not leaf.isdigit())[:12])
            raise UsageError(f"--target-modules: {name!r} is no linear of this model", f"It has {listed}; or use auto")
    return wanted


def beside_the_text(model: AnyModel) -> str:
    """A pattern of the linears that no text goes through, those of a vision tower say; '' where there are none. LoRA on
    them would be counted and saved, and stay as it began."""
    inner = inner_model(model)
    decoder = inner.get_decoder()
    place = next((name for name, module in inner.named_modules() if module is decoder), "")
    if not place:  # the model itself, or nothing that is in it
        return ""
    parent = place.rpartition(".")[0]
    above, ends = f"{parent}." if parent else "", (inner.get_input_embeddings(), inner.get_output_embeddings())
    others = {
        re.escape(above + name.removeprefix(above).split(".")[0])
        for name, module in inner.named_modules()
        if _takes_lora(module) and not name.startswith(f"{place}.") and module not in ends
    }
    # one name for each part of the model, and not one for every linear; a pattern that `adapter_config.py` takes
    return rf"(?:{'|'.join(sorted(others))})(?:\..*)?" if others else ""


def _takes_lora(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (nn.Linear, nn.Embedding, Conv1D))


def count_parameters(model: torch.nn.Module) -> ParameterCount:
    """Parameters that train, and all of them; a packed 4-bit weight counts as the numbers it stands for. Works on the
    meta device."""
    trained = total = 0
    for parameter in model.parameters():
        shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
        size = math.prod(shape) if shape is not None else parameter.numel()
        total += size
        trained += size if parameter.requires_grad else 0
    return ParameterCount(trained, total)


def adapter_tensors(model: AnyModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors under PEFT's names, where they lie: of a pipeline's stage those of others on the meta
    device."""
    from peft import get_peft_model_state_dict

    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return state


def adapter_state(model: AnyModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors under PEFT's names, on the CPU: what is saved, and nothing of the base."""
    state = adapter_tensors(model)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}


def set_adapter_state(model: AnyModel, state: Mapping[str, torch.Tensor]) -> None:
    """Puts tensors from `adapter_state` back, into a pipeline's stage those of its blocks. Raises ModelError when they
    are not this adapter's."""
    from peft import set_peft_model_state_dict

    mine = {name: tensor.shape for name, tensor in adapter_tensors(model).items()}
    if {name: tensor.shape for name, tensor in state.items()} != mine:  # PEFT would put any other into the base
        raise ModelError(
            "the saved adapter does not fit this model", "Use the base model and --lora-rank it was trained with"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*to a meta parameter")  # they are another stage's
        result: Any = set_peft_model_state_dict(
            model, dict(state)
        )  # a namedtuple of keys, which PEFT does not annotate
    if result.unexpected_keys or any("lora_" in key for key in result.missing_keys):
        raise ModelError(
            "the saved adapter does not fit this model", "Use the base model and --lora-rank it was trained with"
        )


def save_adapter(
    model: AnyModel,
    base: Base,
    folder: Path,
    facts: AdapterFacts,
    card: str,
    state: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Writes the adapter to `folder`, whole or not at all; a folder that is there is set aside as `<folder>.old-N`.
    `facts` go to florilegium.json with the sums of the files, `card` to README.md; `state` replaces the live weights,
    e.g. with the best ones seen.

    Raises ResourceError when the disk refuses, DivergedError when a weight is no number; then nothing is written.
    """
    tensors = dict(state if state is not None else adapter_state(model))
    check_tensors(tensors, "the adapter")
    config: PeftConfig = model.peft_config["default"]  # type: ignore[assignment]  # torch's stub has a Tensor here
    values: dict[str, object] = {
        **{str(name): _plain(value) for name, value in config.to_dict().items()},
        "base_model_name_or_path": base.path,  # loads in stock PEFT on this machine; `push` takes it out
        "inference_mode": True,
    }
    with disk_errors(folder, tensor_bytes(tensors) + (1 << 20)):
        small = {
            "adapter_config.json": (json.dumps(values, indent=2, sort_keys=True) + "\n").encode(),
            **_tokenizer_files(base, folder.parent),
            "README.md": card.encode(),
        }
        if folder.exists() or folder.is_symlink():
            set_aside(folder)
    files = {
        "adapter_model.safetensors": tensor_pieces(tensors, {"format": "pt"}),
        **{name: [data] for name, data in small.items()},
    }
    needed = tensor_bytes(tensors) + 256 * len(tensors) + sum(map(len, small.values()))
    lora = {name: values.get(name) for name in ESSENTIAL}
    commit_folder(folder, files, replace(facts, lora=lora).to_json(), needed=needed, manifest=FACTS)


def _tokenizer_files(base: Base, beside: Path) -> dict[str, bytes]:
    """What `save_pretrained` writes, as bytes: it writes files by itself, which nobody would flush or sum."""
    with tempfile.TemporaryDirectory(dir=beside, prefix=".tokenizer.", suffix=".tmp") as folder:
        base.tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


def _plain(value: object) -> object:
    """PEFT's config as JSON: its enums and sets become text and sorted lists."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(getattr(value, "value", value))
