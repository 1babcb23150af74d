"""The adapter alone as a LoRA GGUF, for `llama-cli -m BASE.gguf --lora ADAPTER.gguf`.

llama.cpp adds `alpha / rank * B A` to a weight as it lies in its own file, so the rows of B move as those of the weight
do. Its alpha is one for all: where ranks or alphas differ from module to module, or rsLoRA's root is in the scaling, B
takes up the difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from florilegium.errors import ModelError
from florilegium.export.adapter_changes import AdapterChanges
from florilegium.export.gguf_families import GgufFamily
from florilegium.export.gguf_file import GgufTensor, new_writer
from florilegium.export.gguf_model import describe
from florilegium.export.gguf_types import import_gguf
from florilegium.export.lora_change import LoraChange
from florilegium.export.merge import Merge
from florilegium.export.subject import Subject

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter


def adapter_tensors(merge: Merge, family: GgufFamily) -> list[GgufTensor]:
    """A and B of each weight. Raises ModelError for an adapter that is more than LoRA on linears."""
    _refuse_more_than_lora(merge)
    config = merge.base.model.config.get_text_config()
    f32 = import_gguf().GGMLQuantizationType.F32
    found = []
    for name, change in merge.adapter.changes.items():
        place = family.name(name, int(config.num_hidden_layers))
        a_RK, b_NR = (
            (change.right_RK, change.left_NR) if not change.transposed else (change.left_NR.T, change.right_RK.T)
        )
        order = family.order(name, config, b_NR.shape[0])
        b_NR = b_NR if order is None else b_NR[order]
        b_NR = b_NR * _correction(change, a_RK.shape[0], merge.adapter.alpha)
        found += [_tensor(f"{place}.lora_a", a_RK, f32), _tensor(f"{place}.lora_b", b_NR, f32)]
    return found


def _tensor(name: str, values: torch.Tensor, kind: GGMLQuantizationType) -> GgufTensor:
    return GgufTensor(name, tuple(values.shape), kind, lambda: iter([values.contiguous()]))


def _correction(change: LoraChange, rank: int, alpha: float) -> float:
    """1 for plain LoRA: what llama.cpp's alpha / rank lacks of the module's own scaling."""
    return change.scaling * rank / alpha


def _refuse_more_than_lora(merge: Merge) -> None:
    adapter: AdapterChanges = merge.adapter
    changes = adapter.changes
    tables = [name for name in (merge.embedding, merge.head) if name in changes]
    more = {
        "modules of its own (modules_to_save)": bool(adapter.replaced),
        "DoRA's magnitudes": any(change.magnitude is not None for change in changes.values()),
        "biases": bool(adapter.bias_added),
        "a start that changed its base (PiSSA, OLoRA)": any(change.init != "default" for change in changes.values()),
        f"LoRA on {', '.join(tables)}": bool(tables),
    }
    for what, there in more.items():
        if there:
            raise ModelError(
                f"a LoRA GGUF holds LoRA on linears alone, and this adapter has {what}", "Export with --to gguf"
            )


def adapter_writer(merge: Merge, family: GgufFamily, subject: Subject) -> GGUFWriter:
    gguf = import_gguf()
    writer = new_writer(gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[family.architecture]])
    writer.add_type("adapter")
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, merge.adapter.alpha)
    describe(writer, subject, merge.adapter.digest)
    return writer
