"""What the distance between a GGUF file in llama.cpp and the live adapter is made of: the rounding of the file's weights,
and llama.cpp's own arithmetic.

    python -m bench.export.gguf_distances [--adapter FOLDER --model BASE] [--types f32 f16 q8_0 q4_0]

Three answers to the same 32 prompts are compared two by two, by the log-probabilities along the greedy texts:

    live         base and adapter in PEFT, float32
    rounded      the merged weights rounded as the file has them, in Transformers, float32
    llama.cpp    the file itself

llama.cpp's CPU code takes GELU from a table in float16, also of a file in f32, and rounds activations to float16 before
it multiplies them with f16 weights, to 8 bits before quantised ones. Without --adapter: the demo model and a LoRA of
rank 16 on all linears with random numbers.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from florilegium.export.gguf_types import type_of
from florilegium.export.llama_check import ask_llama_cpp
from florilegium.export.probe import Probe, Step, ask
from florilegium.export.subject import read_subject
from florilegium.export.verdict import compare_texts, logprob_distances
from florilegium.runs.export import export
from florilegium.runs.export_probe import make_probe
from florilegium.seedling import FOLDER as SEEDLING

Texts = list[list[Step]]
LINEARS = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]


def make_adapter(base: Path, folder: Path) -> Path:
    """A LoRA on `base` whose random numbers move its texts about as far as training does."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=LINEARS, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.005)
    model.save_pretrained(folder)
    return folder


def round_to(model: Any, merged: dict[str, torch.Tensor], kind: str) -> None:
    """The model's weights as a file of that type has them."""
    import gguf

    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            found = type_of(kind, tuple(parameter.shape), id(parameter) in embeddings, plain=False)
            packed = gguf.quants.quantize(merged[name].numpy(), found)
            parameter.copy_(torch.from_numpy(gguf.quants.dequantize(packed, found).copy()))


def from_llama_cpp(probe: Probe, file: Path) -> Texts:
    said = ask_llama_cpp(probe.prompts, probe.end_of_text, file)["texts"]
    return [[Step(token, {int(i): value for i, value in top.items()}) for token, top in text] for text in said]


def row(kind: str, what: str, one: Texts, other: Texts) -> None:
    distances = logprob_distances(one, other)
    mean = sum(distances) / max(1, len(distances))
    equal, _ = compare_texts(one, other, 0.0)
    print(f"| {kind} | {what} | {max(distances, default=0):.4f} | {mean:.5f} | {equal} of {len(one)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--model", type=Path, default=SEEDLING)
    parser.add_argument("--types", nargs="+", default=["f32", "f16", "q8_0", "q4_0"])
    options = parser.parse_args()
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        adapter = options.adapter or make_adapter(options.model, Path(scratch) / "adapter")
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        probe = make_probe(read_subject(adapter, adapter, str(options.model)), tokenizer)
        base = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, adapter).eval()
        live = ask(model, probe).greedy
        model = model.merge_and_unload()
        merged = {name: value.clone() for name, value in model.named_parameters()}
        print("| type | compared | largest | mean | texts equal |\n|---|---|---|---|---|")
        for kind in options.types:
            out = Path(scratch) / kind
            export(adapter, to="gguf", kind=kind, model=str(options.model), output=str(out), check=False)
            round_to(model, merged, kind)
            rounded, said = ask(model, probe).greedy, from_llama_cpp(probe, next(out.glob("*.gguf")))
            row(kind, "rounded, live", live, rounded)
            row(kind, "llama.cpp, rounded", rounded, said)
            row(kind, "llama.cpp, live", live, said)


if __name__ == "__main__":
    main()
