"""What somebody tries who read the first tables: names that stand twice, tensors on one another, rules that make gigabytes
of a letter, sockets, words of Transformers' own. `BASES` and `ADAPTERS` are all members by kind."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.torture import hostile, hostile_adapters
from tests.torture.hostile import (
    INDEX,
    Change,
    a_folder,
    both,
    edit_json,
    edit_tensors,
    edit_tokenizer,
    fifo,
    filled,
    index_text,
    indexed,
    link,
    moved,
    sharded,
    sparse,
)
from tests.torture.hostile_adapters import PREFIX, QKV, WEIGHTS, extra, forget, lora

Header = dict[str, Any]


def edit_header(edit: Callable[[Header], str | None]) -> Change:
    """The header of the weights changed, or written as the text that `edit` gives back; the data stays."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        text = (edit(header) or json.dumps(header)).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return change


def entry(part: str, **values: Any) -> Change:
    """What the header says of each tensor whose name holds `part`."""
    return edit_header(lambda header: [header[name].update(values) for name in header if part in name] and None)


def edit_text(name: str, edit: Callable[[str], str]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_text(edit((folder / name).read_text()))

    return change


def once_more(name: str, text: str) -> Change:
    """`text`, a name and a value, behind all others of a JSON object."""
    return edit_text(name, lambda whole: whole.rstrip()[:-1] + "," + text + "}")


def instead(name: str, key: str, literal: str) -> Change:
    """A value that Python's json would not write."""

    def change(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, key: "HERE"}).replace('"HERE"', literal))

    return change


def a_socket(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        before = os.getcwd()
        os.chdir(folder)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(name)
        os.chdir(before)

    return change


def on_one_another(header: Header) -> None:
    one, other = [name for name in header if name.endswith("input_layernorm.weight")]
    header[one]["data_offsets"] = header[other]["data_offsets"]


def twice_in_the_header(header: Header) -> str:
    one, other = [name for name in header if name.endswith("input_layernorm.weight")]
    return json.dumps(header)[:-1] + f", {json.dumps(one)}: {json.dumps(header[other])}}}"


def twice_in_the_index(folder: Path) -> None:
    sharded(folder)
    text = (folder / INDEX).read_text()
    name, file = next(iter(json.loads(text)["weight_map"].items()))
    (folder / INDEX).write_text(f"{text.rstrip()[:-2]}, {json.dumps(name)}: {json.dumps(file)}}}}}")


def of_another_case(folder: Path) -> None:
    first, _ = sharded(folder)
    (folder / INDEX).write_text((folder / INDEX).read_text().replace(first, first.replace("model", "Model")))


def without_weights(change: Change) -> Change:
    return both(lambda folder: (folder / "model.safetensors").rename(folder / "m.safetensors"), change)


def rules(**values: Any) -> Change:
    return edit_tokenizer(lambda tokenizer: tokenizer.update(values))


def replacing(letter: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": letter}, "content": content}


def in_a_row(kind: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", kind: list(parts)}


def framed_by(ids: list[int]) -> Change:
    """A post-processor that puts `ids` before each text."""
    start = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    token = {"id": "<s>", "ids": ids, "tokens": ["<s>"] * len(ids)}
    return rules(
        post_processor={"type": "TemplateProcessing", "single": start, "pair": pair, "special_tokens": {"<s>": token}}
    )


def a_word(number: int, word: str = "zzz") -> Change:
    return edit_tokenizer(lambda values: values["model"]["vocab"].update({word: number}))


CHARSMAP = base64.b64encode(struct.pack("<I", 4) + bytes(4) + b"x" * 100_000 + b"\0").decode()
MORE_NOT_WHOLE: dict[str, Change] = {
    "tensors on one another": edit_header(on_one_another),
    "a tensor twice in the header": edit_header(twice_in_the_header),
    **{f"kind {kind!r}": entry("query_key_value.weight", dtype=kind) for kind in ("F4", "C64", "F16", "", "f32")},
    **{f"shape {shape}": entry("ln_f.weight", shape=shape) for shape in ([], [1, 32], [0], [32, 1], [16, 2], [-32])},
    "a note that is a number": edit_header(lambda header: header.update(__metadata__={"format": 7})),
    "a name with an escape sequence": edit_tensors(lambda t: t.update({"\x1b[31mevil\u202e": torch.zeros(4)})),
    "scales of int8 beside whole weights": edit_tensors(lambda t: t.update({"transformer.h.0.mlp.SCB": torch.zeros(4)})),
    "names of another case": moved("ln_f", "LN_F"),
    **{f"said to be quantised ({key})": edit_json(
        "config.json", quantization_config={"quant_method": "bitsandbytes", key: True}) for key in ("load_in_4bit", "load_in_8bit")},
}  # fmt: skip
MORE_ELSEWHERE: dict[str, Change] = {
    **{f"a link to {place}": link("model.safetensors", place) for place in ("/etc/passwd", "/nowhere", "/dev/urandom", "..")},
    "a name twice in the index": twice_in_the_index,
    "a name of another case": of_another_case,
    "an index that is a FIFO": without_weights(fifo(INDEX)),
    "an index that is a socket": without_weights(a_socket(INDEX)),
    "an index that is /dev/zero": without_weights(link(INDEX, "/dev/zero")),
    "NaN as a weight_map": index_text('{"weight_map": NaN}'),
    "an object as a file": index_text('{"weight_map": {"a": {"b": "m.safetensors"}}}'),
    "half of a letter": index_text('{"weight_map": {"a": "\\ud800.safetensors"}}'),
    **{f"the file {name!r}": indexed(name) for name in (
        "w\u0661.safetensors", "....safetensors", "w.safetensors\n", "\x1b[31m.safetensors", "w.SAFETENSORS", "w.safetensors/", "~")},
}  # fmt: skip
BITS_4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}
MORE_CODE: dict[str, Change] = {
    "a tokenizer's object": edit_json("tokenizer_config.json", tokenizer_object="x"),
    "a tokenizer's method": edit_json("tokenizer_config.json", encode="x", __call__="x"),
    "a configuration's class": edit_json("config.json", __class__="x"),
    "a part that is quantised": edit_json("config.json", text_config={"quantization_config": {"quant_method": "gptq"}}),
    "modules by a pattern": edit_json("config.json", quantization_config={**BITS_4, "llm_int8_skip_modules": ["(a+)+$"]}),
    **{f"{key} {value!r}": edit_json("config.json", quantization_config={**BITS_4, key: value}) for key, value in (
        ("bnb_4bit_compute_dtype", "evil"), ("bnb_4bit_quant_storage", "load"), ("bnb_4bit_quant_type", "os.system"),
        ("llm_int8_threshold", float("nan")), ("llm_int8_skip_modules", [7]), ("load_in_4bit", "yes"))},
    "templates that are none": edit_json("tokenizer_config.json", chat_template=[{"name": "y"}]),
    "files of another version": edit_json("tokenizer_config.json", fast_tokenizer_files=["tokenizer.1.0.0.json", "../x"]),
}  # fmt: skip
MORE_OUT_OF_BOUNDS: dict[str, Change] = {
    **{f"a socket as {name}": a_socket(name) for name in ("config.json", "tokenizer.json", "generation_config.json")},
    **{f"a FIFO as {name}": fifo(name) for name in (
        "added_tokens.json", "preprocessor_config.json", "merges.txt", "sentencepiece.bpe.model", "chat_template.json", "vocab.txt")},
    **{f"a folder as {name}": a_folder(name) for name in ("config.json", "tokenizer.json", "generation_config.json")},
    "a chat template of a gigabyte": both(
        lambda folder: (folder / "additional_chat_templates").mkdir(), sparse("additional_chat_templates/x.jinja", 1 << 30)),
    "a letter as a megabyte": rules(normalizer=replacing("e", "x" * 1_000_000)),
    "a letter as ten, five times": rules(normalizer=in_a_row("normalizers", *[replacing("e", "e" * 10)] * 5)),
    "ten megabytes in front": rules(normalizer={"type": "Prepend", "prepend": "x" * 10_000_000}),
    "bytes of bytes of bytes": rules(normalizer=in_a_row("normalizers", *[{"type": "ByteLevel"}] * 12)),
    "a table of long texts": rules(normalizer={"type": "Precompiled", "precompiled_charsmap": CHARSMAP}),
    "a table that is none": rules(normalizer={"type": "Precompiled", "precompiled_charsmap": "\0"}),
    "a token that is read as a megabyte": rules(decoder=in_a_row("decoders", replacing("e", "x" * 1_000_000))),
    "tokens by chance": edit_tokenizer(lambda values: values["model"].update(dropout=0.5)),
    "a word of a megabyte": a_word(7, "x" * 1_000_000),
    "a frame beyond the embedding": framed_by([99_999]), "a frame of a million": framed_by([1] * 1_000_000),
    **{f"a word as number {number}": a_word(number) for number in (-1, 1 << 31, 1 << 40)},
    "a pattern that is none": hostile.split_by("["), "a pattern of 20,000 brackets": hostile.split_by("(" * 20_000 + ")" * 20_000),
    "no letters": filled("tokenizer.json", b"\xff\xfe\x00"),
    "a tokenizer named twice": once_more("tokenizer.json", '"version": "1.0"'),
}  # fmt: skip
MORE_NUMBERS: dict[str, Change] = {
    **{f"twice {text}": once_more("config.json", text) for text in ('"n_head": 2', '"n_layer": 1', '"vocab_size": 400')},
    **{f"{key} {literal[:20]}": instead("config.json", key, literal) for key, literal in (
        ("layer_norm_epsilon", "1e400"), ("layer_norm_epsilon", "-1e400"), ("initializer_range", "NaN"), ("hidden_dropout", "Infinity"),
        ("n_layer", "2.0"), ("n_layer", "2e0"), ("seq_length", "9" * 900_000), ("hidden_size", "[32]"), ("eos_token_id", "[2, [3]]"),
        ("eos_token_id", "[" * 900 + "2" + "]" * 900), ("use_cache", '"yes"'), ("n_head", '"\u0664"'), ("n_head", "true"))},
}  # fmt: skip
MORE_OVERWRITES: dict[str, Change] = {
    **{f"extra {name}": extra(name, *shape) for name, shape in {
        f"{PREFIX}transformer.ln_f.base_layer.weight": (32,), f"{PREFIX}transformer.ln_f.modules_to_save.default.weight": (32,),
        f"{PREFIX}TRANSFORMER.LN_F.WEIGHT": (32,), f"{PREFIX}transformer.ln_f.original_module.weight": (32,),
        f"{QKV}.lora_C.weight": (16, 32), f"{QKV}.lora_A.default.weight": (16, 32), f"{QKV}.LORA_A.weight": (16, 32),
        f"{PREFIX}{PREFIX}transformer.ln_f.weight": (32,), f"{QKV}.lora_A.weight.weight": (16, 32), f"{QKV}.lora_A": (16, 32),
        f"{PREFIX}transformer.h.\u0660.self_attention.query_key_value.lora_A.weight": (16, 32), "\x1b[31m": (1,)}.items()},
    "a part of the whole model": both(lora(modules_to_save=["transformer"]), extra(f"{PREFIX}transformer.ln_f.weight", 32)),
}  # fmt: skip


def edit_matrices(edit: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    return both(forget, edit_tensors(lambda t: [edit(t)], WEIGHTS))


def each(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return edit_matrices(lambda t: t.update({name: change(tensor) for name, tensor in t.items()}))


MORE_NO_LORA: dict[str, Change] = {
    "r twice": both(forget, once_more("adapter_config.json", '"r": 4')),
    "r 1e400": both(forget, instead("adapter_config.json", "r", "1e400")),
    **{f"a {kind.__name__} as {name}": both(forget, kind(name)) for kind in (fifo, a_socket) for name in (WEIGHTS, "adapter_config.json")},
    **{f"{key} asked for": lora(**{key: value}) for key, value in {
        "lora_ga_config": {"a": 1}, "arrow_config": {"a": 1}, "use_qalora": True, "runtime_config": {"a": 1},
        "target_parameters": ["transformer.ln_f.weight"], "ensure_weight_tying": True, "alora_invocation_tokens": [1], "evil": 1}.items()},
    **{f"{key} of {len(value)}": lora(**{key: value}) for key, value in {
        "alpha_pattern": {f"a{i}": 1 for i in range(200_000)}, "rank_pattern": {"x" * 100_000: 8}, "layers_pattern": "(h+)+$"}.items()},
    "a pattern as a name": lora(rank_pattern={".*": 8}), "an escape sequence as a name": lora(alpha_pattern={"\x1b[31m": 1}),
    "LoHa": lora(peft_type="LOHA"), "matrices on their side": each(lambda t: t.T), "rows": each(lambda t: t.reshape(-1)),
    "boxes": each(lambda t: t[None]), "of rank 0": edit_matrices(lambda t: t.update({n: x[:0] for n, x in t.items() if "lora_A" in n})),
    "in eight bits": each(lambda t: t.to(torch.float8_e4m3fn)), "none": edit_matrices(lambda t: t.clear()),
    "one too few": edit_matrices(lambda t: t.pop(min(t))),
}  # fmt: skip
FACTS = "florilegium.json"
MORE_NO_FACTS: dict[str, Change] = {
    "bits twice": once_more(FACTS, '"bits": 8'), "a FIFO": fifo(FACTS), "a socket": a_socket(FACTS), "/dev/zero": link(FACTS, "/dev/zero"),
    "a link to nowhere": link(FACTS, "/nowhere"), "a loop": link(FACTS, FACTS), "a folder": a_folder(FACTS),
    "half a million openings": edit_json(FACTS, openings={f"o{i}": 1 for i in range(500_000)}), "no text": filled(FACTS, b'{"a": "\xff"}'),
    **{f"{key} {value!r}": edit_json(FACTS, **{key: value}) for key, value in (
        ("base", {"digest": ["x"]}), ("base", {"tokenizer_digest": 7}), ("base", {"shape": 7}), ("bits", float("nan")),
        ("template", "{quote}\n\n{tags}"), ("template", "{__class__} ->: {x\x1b}"), ("lora", {"r": [[[1]]]}),
        ("files", {WEIGHTS: 7}), ("files", {"../../../etc/passwd": {"sha256": "x", "bytes": 1}}))},
}  # fmt: skip
BASES: dict[str, dict[str, Change]] = {
    "NOT_WHOLE": {**hostile.NOT_WHOLE, **MORE_NOT_WHOLE},
    "LEADS_ELSEWHERE": {**hostile.LEADS_ELSEWHERE, **MORE_ELSEWHERE},
    "WANTS_CODE": {**hostile.WANTS_CODE, **MORE_CODE},
    "NUMBERS": {**hostile.NUMBERS, **MORE_NUMBERS},
    "OUT_OF_BOUNDS": {**hostile.OUT_OF_BOUNDS, **MORE_OUT_OF_BOUNDS},
}
ADAPTERS: dict[str, dict[str, Change]] = {
    "OVERWRITES": {**hostile_adapters.OVERWRITES, **MORE_OVERWRITES},
    "NO_LORA": {**hostile_adapters.NO_LORA, **MORE_NO_LORA},
    "NO_FACTS": {**hostile_adapters.NO_FACTS, **MORE_NO_FACTS},
}
# Loaded as if it were not there: the same model, the same tokens, and nothing read or fetched.
IGNORED: dict[str, Change] = {
    **hostile.IGNORED,
    **{f"config.json: {key} {str(value)[:40]}": edit_json("config.json", **{key: value}) for key, value in (
        ("dtype", "load"), ("torch_dtype", 7), ("num_labels", 10**9), ("num_labels", -5), ("id2label", [1]), ("return_dict", False),
        ("attribute_map", {"hidden_size": "n_layer"}), ("output_attentions", True), ("torchscript", True))},
    **{f"tokenizer_config.json: {key}": edit_json("tokenizer_config.json", **{key: value}) for key, value in (
        ("tokenizer_file", "/etc/passwd"), ("vocab_file", "/etc/passwd"), ("gguf_file", "x.gguf"), ("from_slow", True),
        ("chat_template", 7), ("fix_mistral_regex", True))},
    "texts cut to one token": rules(truncation={"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}),
    "texts of 100,000,000 tokens": rules(padding={
        "strategy": {"Fixed": 10**8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 3, "pad_type_id": 0,
        "pad_token": "<pad>"}),
    "a card that is a FIFO": fifo("README.md"),
}  # fmt: skip
