"""Folders made to deceive, by code: each kind a table of changes to a copy of a good model or adapter.

`tests/torture/test_hostile_folders.py` runs them: in this process all of them, through every command (marked slow) too.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Change = Callable[[Path], object]  # what it returns is nobody's business
INDEX = "model.safetensors.index.json"


def copied(source: Path, folder: Path, change: Change) -> Path:
    """A copy of `source` with one thing changed."""
    shutil.copytree(source, folder)
    change(folder)
    return folder


def edit_json(name: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**old, **values}))

    return change


def edit_tensors(edit: Callable[[dict[str, torch.Tensor]], None], file: str = "model.safetensors") -> Change:
    def change(folder: Path) -> None:
        tensors = load_file(folder / file)
        edit(tensors)
        save_file({name: t.contiguous() for name, t in tensors.items()}, folder / file, metadata={"format": "pt"})

    return change


class Mark:
    """A pickle that leaves a file behind where it is opened."""

    def __reduce__(self) -> tuple:
        return (os.system, ("touch code-ran",))


# ---- 1: a base that is not whole ------------------------------------------------------------------------------------


def dropped(*parts: str) -> Change:
    return edit_tensors(lambda t: [t.pop(name) for name in list(t) if any(part in name for part in parts)])


def moved(old: str, new: str) -> Change:
    return edit_tensors(lambda t: t.update({n.replace(old, new): t.pop(n) for n in list(t) if old in n}))


def cast(part: str, dtype: torch.dtype) -> Change:
    return edit_tensors(lambda t: t.update({n: t[n].to(dtype) for n in t if part in n}))


def cut(part: str) -> Change:
    return edit_tensors(lambda t: t.update({n: t[n][: len(t[n]) // 2] for n in t if part in n}))


NOT_WHOLE: dict[str, Change] = {
    **{f"without {part}": dropped(part) for part in (
        "ln_f", "ln_f.bias", "h.0.", "h.1.", "query_key_value", "query_key_value.bias", "dense_h_to_4h", "4h_to_h.bias",
        "self_attention.dense", "input_layernorm", "post_attention_layernorm.weight", "word_embeddings.weight",
        "word_embeddings_layernorm", "transformer")},
    **{f"{old} as {new}": moved(old, new) for old, new in (
        ("transformer.", "evil."), ("transformer.", "model."), ("transformer.h", "transformer.layers"), ("mlp", "ffn"),
        ("ln_f", "norm"), (".weight", ".w"), ("h.1.", "h.2."), ("word_embeddings.", "wte."), ("transformer.", "_orig_mod."))},
    **{f"{part} in {dtype}": cast(part, dtype) for part, dtype in (
        ("query_key_value.weight", torch.int8), ("ln_f", torch.bool), ("word_embeddings.", torch.int64),
        ("dense", torch.uint8), ("h.0", torch.float8_e4m3fn), ("bias", torch.int32))},
    **{f"half of {part}": cut(part) for part in ("ln_f", "word_embeddings.weight", "dense.bias", "query_key_value", "h.1.")},
    **{f"{key} {value}": edit_json("config.json", **{key: value}) for key, value in (
        ("n_layer", 1), ("n_layer", 3), ("vocab_size", 399), ("vocab_size", 1), ("hidden_size", 16), ("tie_word_embeddings", False),
        ("model_type", "gpt2"), ("model_type", "llama"), ("model_type", "bert"))},
}  # fmt: skip


# ---- 2: an index that leads elsewhere --------------------------------------------------------------------------------


def indexed(place: str | Callable[[Path], Any], prepare: Change | None = None, decoy: bool = True) -> Change:
    """The weights go where `place` says, an index names it for every tensor, a decoy may lie beside it."""

    def change(folder: Path) -> None:
        weights = folder / "model.safetensors"
        names = list(load_file(weights))
        if decoy:
            shutil.copy(weights, folder / "decoy.safetensors")
        target = place(folder) if callable(place) else place
        if isinstance(target, str) and "\0" not in target and len(target) < 300:
            home = folder / target
            home.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(weights, home) if not home.exists() else None
        weights.unlink()
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, target)}))
        if prepare:
            prepare(folder)

    return change


def pickled(name: str) -> Change:
    def change(folder: Path) -> None:
        torch.save(load_file(folder / "decoy.safetensors"), folder / name)

    return change


def bomb(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes(pickle.dumps(Mark()))


def index_text(text: str | bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "m.safetensors")
        (folder / INDEX).write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def sharded(folder: Path) -> list[str]:
    """The good model in two files and an index, as Transformers saves large ones."""
    tensors = load_file(folder / "model.safetensors")
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    names = sorted(tensors)
    weight_map = {name: files[number % 2] for number, name in enumerate(names)}
    for file in files:
        held = {name: tensors[name].clone() for name in names if weight_map[name] == file}
        save_file(held, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}))
    return files


def half_a_download(folder: Path) -> None:
    (folder / sharded(folder)[1]).unlink()


def cut_short(folder: Path) -> None:
    path = folder / sharded(folder)[1]
    path.write_bytes(path.read_bytes()[:-100])


def twice(folder: Path) -> None:
    first, second = sharded(folder)
    extra = load_file(folder / first)
    save_file({**load_file(folder / second), **extra}, folder / second, metadata={"format": "pt"})
    values = json.loads((folder / INDEX).read_text())
    values["weight_map"] = {name: file for name, file in values["weight_map"].items() if name not in extra}
    values["weight_map"]["other"] = first
    (folder / INDEX).write_text(json.dumps(values))


def fifo(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def a_folder(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


LEADS_ELSEWHERE: dict[str, Change] = {
    "a pickle": indexed("weights.bin", pickled("weights.bin")),
    "a pickle that runs code": indexed("weights.bin", bomb("weights.bin")),
    "a pickle named .safetensors": indexed("w.safetensors", bomb("w.safetensors")),
    "a .pt": indexed("weights.pt", pickled("weights.pt")),
    "a .pth": indexed("weights.pth", pickled("weights.pth")),
    "a subfolder": indexed("sub/w.safetensors"),
    "a subfolder by a backslash": indexed("sub\\w.safetensors"),
    "the parent": indexed("../w.safetensors"),
    "an absolute path": indexed(lambda folder: str(folder.parent / "w.safetensors")),
    "/etc/passwd": indexed("../../../../etc/passwd", lambda folder: None),
    "/dev/zero": indexed(lambda folder: "/dev/zero"),
    "a hidden file": indexed(".w.safetensors"),
    "a name with NUL": indexed("w\0.safetensors"),
    "a name of a line": indexed("w\nw.safetensors"),
    "a name of 5,000 characters": indexed("w" * 5000 + ".safetensors"),
    "a number": indexed(lambda folder: 7),
    "a list": indexed(lambda folder: ["w.safetensors"]),
    "nothing": indexed(lambda folder: None),
    "a file that is not there": indexed("gone.safetensors", lambda folder: (folder / "gone.safetensors").unlink()),
    "a FIFO": indexed("w.safetensors", fifo("w.safetensors")),
    "a folder": indexed("w.safetensors", a_folder("w.safetensors")),
    "no weight_map": index_text("{}"),
    "an empty weight_map": index_text('{"weight_map": {}}'),
    "a weight_map of a list": index_text('{"weight_map": ["m.safetensors"]}'),
    "an index of a list": index_text("[]"),
    "no JSON": index_text(b"\xff\xfe"),
    "1e5 deep": index_text('{"weight_map":' * 100_000),
    "20 MB": index_text(" " * 20_000_000 + "{}"),
    "no index and no model.safetensors": lambda folder: (folder / "model.safetensors").rename(folder / "m.safetensors"),
    "half a download": half_a_download,
    "a file cut short": cut_short,
    "a tensor in two files": twice,
}  # fmt: skip


# ---- 4: code by configuration ----------------------------------------------------------------------------------------


def evil_file(folder: Path) -> None:
    (folder / "evil.py").write_text("open('code-ran', 'w')\nclass Evil: pass\n")


def generate_file(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text("open('code-ran', 'w')")


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


AUTO_MAP = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
WANTS_CODE: dict[str, Change] = {
    **{f"auto_map in {name}": both(edit_json(name, auto_map=AUTO_MAP), evil_file) for name in (
        "config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json")},
    "auto_map in a part": both(edit_json("config.json", text_config={"auto_map": AUTO_MAP}), evil_file),
    **{f"a tokenizer of {kind}": edit_json("tokenizer_config.json", tokenizer_class=kind) for kind in (
        "AutoModelForCausalLM", "BertJapaneseTokenizer", "Wav2Vec2PhonemeCTCTokenizer", "RagTokenizer", "AutoProcessor", "pipeline",
        "BloomForCausalLM", "Trainer", "CpmTokenizer", "GenerationConfig", "XLMTokenizer", "BioGptTokenizer")},
    "a tokenizer of config.json's": both(
        edit_json("config.json", tokenizer_class="BertJapaneseTokenizer"), edit_json("tokenizer_config.json", tokenizer_class=None)),
    "a tokenizer of a list": edit_json("tokenizer_config.json", tokenizer_class=["PreTrainedTokenizerFast"]),
    "a tokenizer_type of another": edit_json("tokenizer_config.json", tokenizer_type="AutoModel"),
    **{f"quantised by {method}": edit_json("config.json", quantization_config={"quant_method": method, "bits": 4}) for method in (
        "gptq", "awq", "fp8", "mxfp4", "hqq", "quanto", "torchao", "aqlm", "compressed-tensors", "evil", "higgs")},
    "quantised by a word": edit_json("config.json", quantization_config="evil"),
    "a dtype of torch's attributes": edit_json("config.json", quantization_config={
        "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_compute_dtype": "load"}),
    "bitsandbytes in no bits": edit_json("config.json", quantization_config={"quant_method": "bitsandbytes"}),
}  # fmt: skip
# Loaded as if it were not there: the same model, and nothing fetched.
IGNORED: dict[str, Change] = {
    **{f"attention by {name}": edit_json("config.json", attn_implementation=name) for name in (
        "evil/kernel", "kernels-community/flash-attn", "flash_attention_2", "evil/kernel@main:f", "paged|sdpa")},
    "attention hidden": edit_json("config.json", _attn_implementation="evil/kernel"),
    "attention by a dictionary": edit_json("config.json", attn_implementation={"": "evil/kernel"}),
    "experts by a kernel": edit_json("config.json", experts_implementation="evil/kernel"),
    "other weights": both(edit_json("config.json", transformers_weights="other.safetensors"), bomb("other.safetensors")),
    "fusion": edit_json("config.json", fusion_config={"patch_embeddings": True}),
    "an adapter in the base": both(
        edit_json("adapter_config.json", base_model_name_or_path="evil/base", peft_type="LORA"), bomb("adapter_model.bin")),
    "a generation function": generate_file,
    "a chat template": edit_json("tokenizer_config.json", chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    "a chat template that never ends": edit_json(
        "tokenizer_config.json", chat_template="{% for i in range(10**12) %}x{% endfor %}"),
    "a generation configuration": edit_json("generation_config.json", custom_generate="evil/code", max_new_tokens=10**12),
    "a name of elsewhere": edit_json("config.json", _name_or_path="deepseek-ai/evil", name_or_path="/etc"),
    "a pickle beside it": bomb("pytorch_model.bin"),
}  # fmt: skip


# ---- 6: numbers out of range -----------------------------------------------------------------------------------------

WRONG = {
    "n_head": (0, -1, 10**9, "4", None, 4.5, True, [4], 3),
    "n_layer": (0, -1, 10**9, "2", 1.5, [2]),
    "hidden_size": (0, -32, 10**9, 2**63, "32", {}),
    "vocab_size": (0, -1, 10**12, "x"),
    "layer_norm_epsilon": ({"__float__": "NaN"}, float("nan"), float("inf"), -1.0, 2.0, "x", [1]),
    "hidden_dropout": (-0.5, 1.5, float("nan"), "x", True),
    "attention_dropout": (-0.5, 7, float("-inf")),
    "initializer_range": (float("nan"), -1, "x"),
    "tie_word_embeddings": ("yes", 2, [True], {}),
    "apply_residual_connection_post_layernorm": ("no", 3),
    "pretraining_tp": (0, -1, "x", 1e30),
    "bos_token_id": ("x", -7, 1.5),
    "eos_token_id": ({}, ["x"], float("nan")),
    "model_type": (None, 7, "", "../bloom", "bloom\n", ["bloom"]),
}
NUMBERS: dict[str, Change] = {
    f"{key} {value!r}": edit_json("config.json", **{key: value})
    for key, values in WRONG.items()
    for value in values
    if not (key == "n_head" and value is None)
}


# ---- 5: bounds --------------------------------------------------------------------------------------------------------


def link(name: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def filled(name: str, text: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(text)


def sparse(name: str, size: int) -> Change:
    def change(folder: Path) -> None:
        with (folder / name).open("r+b" if (folder / name).exists() else "wb") as file:
            file.truncate(size)

    return change


def edit_tokenizer(edit: Callable[[dict[str, Any]], None]) -> Change:
    def change(folder: Path) -> None:
        values = json.loads((folder / "tokenizer.json").read_text())
        edit(values)
        (folder / "tokenizer.json").write_text(json.dumps(values))

    return change


def split_by(pattern: str) -> Change:
    """A pattern whose time grows with every letter."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return edit_tokenizer(lambda values: values.update(pre_tokenizer=split))


def more_words(values: dict[str, Any]) -> None:
    """Words that were added, and no row of the embedding for them."""
    first = len(values["model"]["vocab"]) + 100
    values["added_tokens"] += [
        {"id": first + i, "content": f"<w{i}>", "special": False, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": True} for i in range(500)
    ]  # fmt: skip


FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "generation_config.json")
OUT_OF_BOUNDS: dict[str, Change] = {
    **{f"a FIFO as {name}": fifo(name) for name in FILES},
    **{f"/dev/zero as {name}": link(name, "/dev/zero") for name in FILES},
    **{f"a loop as {name}": link(name, name) for name in ("config.json", "tokenizer.json", "model.safetensors")},
    **{f"nothing in {name}": filled(name, b"") for name in FILES},
    **{f"1e5 deep {name}": filled(name, b'{"a":' * 100_000) for name in FILES},
    **{
        f"{name} of 70 MB": sparse(name, 70 << 20)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
    },
    "vocab.json of 70 MB": sparse("vocab.json", 70 << 20),
    "special_tokens_map.json as a FIFO": fifo("special_tokens_map.json"),
    "chat_template.jinja of 70 MB": sparse("chat_template.jinja", 70 << 20),
    "weights of 1 TB": sparse("model.safetensors", 1 << 40),
    "a pattern that never ends": split_by(r"(?:(?:.|.)+)+(?=\d\d\d\d)"),
    "words that the embedding lacks": edit_tokenizer(more_words),
    "a tokenizer of nothing": filled("tokenizer.json", b"{}"),
}
