"""The merge as a GGUF model: its tensors under llama.cpp's names and in its order, its metadata, its Modelfile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from florilegium.config import SamplingSettings
from florilegium.config.installed import installed_version
from florilegium.data import Template
from florilegium.export.base_weights import StoredTensor
from florilegium.export.gguf_families import GgufFamily, rope_factors
from florilegium.export.gguf_file import GgufTensor, Numbers, new_writer
from florilegium.export.gguf_types import file_type, import_gguf, type_of
from florilegium.export.gguf_vocabulary import Vocabulary
from florilegium.export.lora_change import spans
from florilegium.export.merge import Merge
from florilegium.export.subject import Subject
from florilegium.model.base_sampling import base_sampling

if TYPE_CHECKING:
    from gguf import GGUFWriter


def model_tensors(merge: Merge, family: GgufFamily, kind: str) -> list[GgufTensor]:
    """The merge's tensors for a file of `kind`. A head that is the embedding is not written: llama.cpp takes the
    embedding then."""
    config = merge.base.model.config.get_text_config()
    blocks = int(config.num_hidden_layers)
    found = []
    for tensor in merge:
        if tensor.name.endswith(family.skipped) or (merge.tied and tensor.name == merge.head):
            continue
        name = family.name(tensor.name, blocks)
        transposed = family.is_transposed(tensor.name)
        shape = tensor.shape[::-1] if transposed else tensor.shape
        is_table = tensor.name in (merge.embedding, merge.head)
        chosen = type_of(kind, shape, is_table, tensor.name.endswith(family.plain))
        order = family.order(tensor.name, config, shape[0])
        found.append(GgufTensor(name, shape, chosen, _numbers(merge, tensor, order, transposed)))
    if (factors := rope_factors(config)) is not None:
        f32 = import_gguf().GGMLQuantizationType.F32
        found.append(GgufTensor("rope_freqs.weight", tuple(factors.shape), f32, lambda: iter([factors])))
    return found


def _numbers(merge: Merge, tensor: StoredTensor, order: torch.Tensor | None, transposed: bool) -> Numbers:
    """A tensor's rows in pieces; one whose rows move, or that is turned over, is held whole."""

    def pieces() -> Iterator[torch.Tensor]:
        rows = merge.rows(tensor)
        if order is None and not transposed:
            for first, last in spans(tensor.shape):
                yield rows(first, last).float()
            return
        whole = rows(0, tensor.shape[0]).float()
        whole = whole.T.contiguous() if transposed else whole
        whole = whole if order is None else whole[order]
        for first, last in spans(tuple(whole.shape)):
            yield whole[first:last]

    return pieces


def model_writer(merge: Merge, family: GgufFamily, kind: str, subject: Subject, vocabulary: Vocabulary) -> GGUFWriter:
    """gguf's writer with all of the metadata."""
    gguf, config = import_gguf(), merge.base.model.config.get_text_config()
    writer = new_writer(gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[family.architecture]])
    writer.add_type("model")
    describe(writer, subject, merge.adapter.digest)
    writer.add_file_type(file_type(kind))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    family.facts(writer, config)
    writer.add_vocab_size(len(vocabulary.tokens))
    vocabulary.write(writer)
    writer.add_chat_template(chat_template(subject.template))
    sampling = base_sampling(subject.base_folder)
    writer.add_sampling_temp(sampling.temperature)
    writer.add_sampling_top_p(sampling.top_p)
    writer.add_sampling_top_k(sampling.top_k)
    return writer


def describe(writer: GGUFWriter, subject: Subject, digest: str) -> None:
    """What the file is, whence, and under which terms."""
    base = subject.base
    writer.add_name(f"{base.name} tuned by florilegium ({subject.name})")
    writer.add_description(base.restrictions())
    if base.licence:
        writer.add_license(base.licence)
    if base.licence_link:
        writer.add_license_link(base.licence_link)
    writer.add_tags(["text-generation", "lora", "florilegium", "quotes"])
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base.name)
    if base.on_hub:
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{base.name}")
    writer.add_string("florilegium.version", installed_version("florilegium"))
    writer.add_string("florilegium.template", subject.template.text)
    if digest:
        writer.add_string("florilegium.adapter.sha256", digest)


def around(template: Template) -> tuple[str, str]:
    """What stands before and behind the text that a user gives, for the model to write the last column: a whole quote
    gets its tags. Of templates with other than two columns, nothing: the text is gone on with."""
    if len(template.columns) != 2:
        return "", ""
    marker = "florilegium"
    before, _, behind = template.prompt({template.columns[0]: marker}).partition(marker)
    return before, behind


def chat_template(template: Template) -> str:
    """Jinja: the last message in the training template's first column."""
    before, behind = (json.dumps(text, ensure_ascii=False) for text in around(template))
    return "{{ " + f'{before} + messages[-1]["content"] + {behind}' + " }}"


def modelfile(gguf: str, template: Template, end_of_text: str, sampling: SamplingSettings) -> str:
    """Ollama's Modelfile: the training template, where to stop, how to sample."""
    before, behind = (text.replace("{{", '{{ "{{" }}') for text in around(template))
    return f'''# ollama create quotes -f Modelfile, then: ollama run quotes "Be kind."
# A whole quote gets its tags. To have a beginning gone on with instead, make the TEMPLATE {{{{ .Prompt }}}} alone.
FROM ./{gguf}
TEMPLATE """{before}{{{{ .Prompt }}}}{behind}"""
PARAMETER stop "{end_of_text}"
PARAMETER temperature {sampling.temperature:g}
PARAMETER top_p {sampling.top_p:g}
PARAMETER top_k {sampling.top_k}
PARAMETER repeat_penalty {sampling.repetition_penalty:g}
PARAMETER num_predict {sampling.max_new_tokens}
'''
