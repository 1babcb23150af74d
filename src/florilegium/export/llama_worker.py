"""llama.cpp in a process of its own, by xllamacpp: a broken file may end this process and not the export.

Reads one JSON object from stdin, {"model", "lora", "prompts", "end_of_text", "new_tokens", "top", "threads"}; writes one
to stdout, {"tokens": ids of each prompt, "texts": for each prompt its greedy steps, [token, {token: log-probability}]}.
It is run by its path and imports nothing of florilegium."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from xllamacpp import Server

Json = dict[str, Any]  # llama.cpp's questions and answers, and those of the process that started this one
CONTEXT = 512


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)  # whatever the library prints is not the answer
    asked = json.loads(sys.stdin.read())
    server = start(asked)

    def post(path: str, body: Json) -> Json:
        data = json.dumps(body).encode()
        request = Request(server.listening_address + path, data, {"Content-Type": "application/json"})
        with urlopen(request, timeout=600) as answer:
            found: Json = json.loads(answer.read())
        return found

    tokens, texts = [], []
    for prompt in asked["prompts"]:
        tokens.append(post("/tokenize", {"content": prompt, "add_special": True})["tokens"])
        if not asked["new_tokens"]:
            continue
        greedy = {"temperature": 0, "n_predict": asked["new_tokens"], "n_probs": asked["top"], "return_tokens": True}
        # the penalties and cuts that the file's metadata or the server's defaults bring would change what is most likely
        plain = {"repeat_penalty": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "cache_prompt": False}
        texts.append(steps(post("/completion", {"prompt": prompt, **greedy, **plain}), asked["end_of_text"]))
    os.write(out, json.dumps({"tokens": tokens, "texts": texts}).encode())
    os.close(out)
    os._exit(0)  # the server's threads need no farewell


def start(asked: Json) -> Server:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = asked["model"]
    if asked.get("lora"):
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(asked["lora"], 1.0)]
    params.n_ctx, params.n_parallel, params.port = CONTEXT, 1, 0
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads, threads.poll = asked["threads"], 0  # who waits must not keep a busy machine busier
    # the weights are in question, not llama.cpp's 16-bit cache of keys and values
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_gpu_layers, params.verbosity, params.warmup = 0, 0, False
    return xllamacpp.Server(params)


def steps(answer: Json, end_of_text: int) -> list[Any]:
    """Token by token what was written. llama.cpp leaves out the end-of-text, which is a step like any other, and the
    likelihoods of tokens that end amid a character: then those alone are taken whose place is certain."""
    tokens, told = list(answer["tokens"]), answer.get("completion_probabilities", [])
    tops = [{str(top["id"]): top["logprob"] for top in entry["top_logprobs"]} for entry in told]
    if len(told) != len(tokens):
        by_id = {entry["id"]: top for entry, top in zip(told, tops, strict=True)}
        tops = [by_id.get(token, {}) if tokens.count(token) == 1 else {} for token in tokens]
    if answer.get("stop_type") == "eos" and (not tokens or tokens[-1] != end_of_text):
        tokens.append(end_of_text)
        tops.append({})
    return [[token, top] for token, top in zip(tokens, tops, strict=True)]


if __name__ == "__main__":
    main()
