"""The forms of an export: what each writes, how large it is, and how it is checked."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from florilegium.errors import ModelError, whole_reason
from florilegium.export.gguf_adapter import adapter_tensors, adapter_writer
from florilegium.export.gguf_families import family_of
from florilegium.export.gguf_file import gguf_bytes, gguf_pieces
from florilegium.export.gguf_model import model_tensors, model_writer, modelfile
from florilegium.export.gguf_types import choose_kind
from florilegium.export.gguf_vocabulary import Vocabulary, read_vocabulary
from florilegium.export.llama_check import MISSING, check_gguf, has_llama_cpp
from florilegium.export.merge import Merge
from florilegium.export.merged_folder import merged_bytes, write_merged
from florilegium.export.quantised_folder import check_widths, quantised_bytes, write_quantised
from florilegium.export.subject import Subject
from florilegium.export.tokenizer import checked_tokenizer
from florilegium.export.verdict import Verdict, judge_merged
from florilegium.model.base_sampling import base_sampling
from florilegium.runs.export_live import Live, answers_of
from florilegium.storage.atomic_folders import NewFolder
from florilegium.storage.paths import slug

SCRATCH = "base.gguf"  # what a LoRA GGUF is checked on, or llama-quantize reads; removed again


@dataclass(frozen=True)
class Form:
    """`kind` is the type that weights have in it, `needed` its size in bytes; `cannot_check` says why it cannot be run
    here, or is empty."""

    what: str
    kind: str
    needed: int
    write: Callable[[NewFolder], None]
    check: Callable[[NewFolder, Live], Verdict]
    cannot_check: str = ""


def merged_form(merge: Merge, subject: Subject, kind: str) -> Form:
    """A model folder, in the base's own type."""
    name = _dtype(merge)
    checked_tokenizer(merge, subject.adapter)

    def write(folder: NewFolder) -> None:
        write_merged(folder, merge, subject.adapter)

    def check(folder: NewFolder, live: Live) -> Verdict:
        return judge_merged(live.answers, answers_of(folder.path, live, live.dtype), name, live.probe.what)

    return Form(
        f"{len(merge.tensors)} tensors, {len(merge.adapter.changes)} of them merged,",
        name,
        merged_bytes(merge),
        write,
        check,
    )


def quantised_form(merge: Merge, subject: Subject, kind: str) -> Form:
    """A bitsandbytes checkpoint, in int8 or NF4."""
    return quantised_model(merge, subject.adapter, kind)


def quantised_model(merge: Merge, tokenizer: Path, kind: str) -> Form:
    """The same; `tokenizer` is the folder of the tokenizer that goes along."""
    bits = {"int8": 8, "nf4": 4}[kind]
    if bits == 4:
        check_widths(merge)
    checked_tokenizer(merge, tokenizer)

    def write(folder: NewFolder) -> None:
        write_quantised(folder, merge, bits, tokenizer)

    def check(folder: NewFolder, live: Live) -> Verdict:
        # In no other dtype: Transformers keeps norms and biases of a quantised checkpoint as they are stored.
        return judge_merged(live.answers, answers_of(folder.path, live, "auto"), kind, live.probe.what)

    return Form(f"{len(merge.tensors)} tensors", kind, quantised_bytes(merge, bits), write, check)


def gguf_form(merge: Merge, subject: Subject, kind: str) -> Form:
    """A GGUF file and Ollama's Modelfile."""
    chosen = choose_kind(kind)
    family = family_of(merge.base.model.config.get_text_config())
    tensors = model_tensors(merge, family, chosen.written)
    vocabulary = _vocabulary(merge, subject)
    name = f"{slug(subject.name)}-{chosen.name.upper()}.gguf"

    def write(folder: NewFolder) -> None:
        writer = model_writer(merge, family, chosen.written, subject, vocabulary)
        folder.write(SCRATCH if chosen.quantize else name, gguf_pieces(writer, tensors))
        if chosen.quantize:
            _quantise(folder, chosen.quantize, name, chosen.name)
        end = vocabulary.tokens[vocabulary.ids["eos"]]
        folder.write("Modelfile", [modelfile(name, subject.template, end, base_sampling(subject.base_folder)).encode()])

    def check(folder: NewFolder, live: Live) -> Verdict:
        return check_gguf(live.answers, live.probe, chosen.name, folder.path / name)

    missing = "" if has_llama_cpp() else MISSING
    needed = gguf_bytes(tensors) * (2 if chosen.quantize else 1)
    return Form(name, chosen.name, needed, write, check, missing)


def gguf_adapter_form(merge: Merge, subject: Subject, kind: str) -> Form:
    """A LoRA GGUF, checked on a GGUF of its base that is made for the purpose."""
    family = family_of(merge.base.model.config.get_text_config())
    tensors, vocabulary = adapter_tensors(merge, family), _vocabulary(merge, subject)
    base = Merge(merge.base, None)
    base_kind = "f32" if _dtype(merge) == "float32" else "f16"
    base_tensors = model_tensors(base, family, base_kind)
    name = f"{slug(subject.name)}-LoRA.gguf"
    can_check = has_llama_cpp()

    def write(folder: NewFolder) -> None:
        folder.write(name, gguf_pieces(adapter_writer(merge, family, subject), tensors))

    def check(folder: NewFolder, live: Live) -> Verdict:
        writer = model_writer(base, family, base_kind, subject, vocabulary)
        folder.write(SCRATCH, gguf_pieces(writer, base_tensors))
        verdict = check_gguf(live.answers, live.probe, base_kind, folder.path / SCRATCH, folder.path / name)
        folder.drop(SCRATCH)
        return verdict

    needed = gguf_bytes(tensors) + (gguf_bytes(base_tensors) if can_check else 0)
    return Form(name, "f32", needed, write, check, "" if can_check else MISSING)


def _dtype(merge: Merge) -> str:
    """The type that most of the weights have."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in merge:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + torch.Size(tensor.shape).numel()
    return str(max(sizes, key=lambda dtype: sizes[dtype])).removeprefix("torch.")


def _vocabulary(merge: Merge, subject: Subject) -> Vocabulary:
    return read_vocabulary(checked_tokenizer(merge, subject.adapter), merge.tensors[merge.embedding].shape[0])


def _quantise(folder: NewFolder, program: str, name: str, kind: str) -> None:
    """llama.cpp's own quantiser, from f16 to what the `gguf` package does not make."""
    ran = subprocess.run(
        [program, folder.path / SCRATCH, folder.path / name, kind.upper()],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if ran.returncode != 0 or not (folder.path / name).is_file():
        lines = [line for line in (ran.stdout + ran.stderr).splitlines() if line.strip()] or ["no word"]
        raise ModelError(
            f"llama-quantize failed ({whole_reason(' '.join(lines[-5:]))})", "Take --type q8_0, or look at the program"
        )
    folder.drop(SCRATCH)
    folder.adopt(name)
