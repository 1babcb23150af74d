"""Three ways to load what a card stands for, as they are typed."""

from __future__ import annotations

from collections.abc import Mapping

from florilegium.export.origin import Origin

THIS = "FOLDER_OF_THIS_MODEL"
BASE = "FOLDER_OF_THE_BASE_MODEL"


def ways_to_load(to: str, base: Origin, where: str, template: str, files: Mapping[str, int]) -> str:
    """Markdown: three blocks of code with a line before each."""
    base_name = base.name if base.on_hub else BASE
    gguf = next((name for name in files if name.endswith(".gguf")), "model.gguf")
    if to == "adapter":
        return "\n\n".join([_peft(base_name, where), _florilegium(where), _merge_first(where)])
    if to == "merged":
        return "\n\n".join([_transformers(where), _vllm(where), _pipeline(where)])
    if to == "quantised":
        return "\n\n".join([_transformers(where), _pipeline(where), _train_on(where)])
    if to == "gguf":
        return "\n\n".join([_llama_cpp(where, gguf), _ollama(where), _lm_studio(gguf)])
    return "\n\n".join([_lora_cli(where, gguf), _lora_server(where, gguf), _lora_ollama(gguf)])


def _block(intro: str, code: str, language: str = "") -> str:
    return f"{intro}\n\n```{language}\n{code}\n```"


def _in_python(intro: str, where: str, *model_lines: str, imports: str = "") -> str:
    """A model in Transformers by `model_lines`, and the tokenizer beside it."""
    lines = [
        f"{imports}from transformers import AutoModelForCausalLM, AutoTokenizer\n",
        *model_lines,
        f'tokenizer = AutoTokenizer.from_pretrained("{where}")',
    ]
    return _block(intro, "\n".join(lines), "python")


def _peft(base: str, where: str) -> str:
    load_base = f'base = AutoModelForCausalLM.from_pretrained("{base}")'
    load = f'model = PeftModel.from_pretrained(base, "{where}")'
    return _in_python("With PEFT:", where, load_base, load, imports="from peft import PeftModel\n")


def _folder(where: str) -> str:
    """Where it lies on the reader's machine: `florilegium generate` and `export` take folders alone."""
    return where if where == THIS else where.rsplit("/", 1)[-1]


def _fetched(where: str) -> str:
    """What brings a repository of the Hub into `_folder(where)`."""
    return "" if where == THIS else f"hf download {where} --local-dir {_folder(where)}\n"


def _florilegium(where: str) -> str:
    code = f'{_fetched(where)}florilegium generate "The sea" --run {_folder(where)}'
    return _block("With florilegium, from a local folder:", code, "sh")


def _train_on(where: str) -> str:
    return _block("As the base of a further training:", f"florilegium train quotes.jsonl --model {where}", "sh")


def _merge_first(where: str) -> str:
    return _block(
        "In llama.cpp, Ollama, LM Studio or vLLM, once it is exported:",
        f"{_fetched(where)}florilegium export {_folder(where)} --to gguf --type q8_0\n"
        f"florilegium export {_folder(where)} --to merged",
        "sh",
    )


def _transformers(where: str) -> str:
    return _in_python("With Transformers:", where, f'model = AutoModelForCausalLM.from_pretrained("{where}")')


def _vllm(where: str) -> str:
    return _block("Served by vLLM (completions; it has no chat template):", f"vllm serve {where}", "sh")


def _pipeline(where: str) -> str:
    return _block(
        "In one line:",
        f'from transformers import pipeline\n\nprint(pipeline("text-generation", "{where}")("The sea")[0]["generated_text"])',
        "python",
    )


def _llama_cpp(where: str, gguf: str) -> str:
    source = f"-m {gguf}" if where == THIS else f"-hf {where} -hff {gguf}"
    return _block("With llama.cpp:", f'llama-completion {source} -p "The sea" -n 80 -no-cnv', "sh")


def _ollama(where: str) -> str:
    fetch = "" if where == THIS else f"hf download {where} --local-dir quotes && cd quotes\n"
    return _block(
        "With Ollama (a whole quote gets its tags; see `Modelfile`):",
        f'{fetch}ollama create quotes -f Modelfile\nollama run quotes "Be kind."',
        "sh",
    )


def _lm_studio(gguf: str) -> str:
    return (
        _block("In LM Studio:", f"lms import {gguf}", "sh")
        + "\n\nthen the *Completion* mode: it is a base model, not a chat."
    )


def _lora_cli(where: str, gguf: str) -> str:
    return _block(
        "With llama.cpp, on the base in GGUF:",
        f'llama-completion -m BASE.gguf --lora {gguf} -p "The sea" -n 80 -no-cnv',
        "sh",
    )


def _lora_server(where: str, gguf: str) -> str:
    return _block("Served, base and adapter in one process:", f"llama-server -m BASE.gguf --lora {gguf}", "sh")


def _lora_ollama(gguf: str) -> str:
    return _block("With Ollama, in a Modelfile:", f"FROM ./BASE.gguf\nADAPTER ./{gguf}")
