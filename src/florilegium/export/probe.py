"""Two models asked the same: what the verdict on an export rests on.

    rows       32 held-out rows, each alone: the logits at their positions, the loss
    prompts    32 beginnings (a quote without its tags, or some words of one): the greedy continuation, and at each of
               its tokens the log-probabilities of the ten most likely

The live adapter answers first and is let go; then what was exported answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

ROWS, NEW_TOKENS, TOP, BATCH = 32, 24, 10, 8
LOGIT_BYTES = 256 << 20  # what is kept of the live model's logits: of larger vocabularies fewer positions


@dataclass(frozen=True)
class Probe:
    """`rows` are token ids with end-of-text; `what` says whose rows they are."""

    rows: list[list[int]]
    prompts: list[str]
    prompt_ids: list[list[int]]
    what: str
    end_of_text: int


@dataclass(frozen=True)
class Step:
    """One greedy token, and the most likely tokens in its place with their log-probabilities."""

    token: int
    top: dict[int, float]


@dataclass(frozen=True)
class Answers:
    """What a model says of a probe. `logits` of each row at every `stride`-th position; `loss` in nats a token."""

    logits: list[torch.Tensor]
    loss: float
    greedy: list[list[Step]]


@torch.inference_mode()
def ask(model: PreTrainedModel | PeftModel, probe: Probe) -> Answers:
    """The answers of a Transformers model."""
    device, vocabulary = model.device, int(model.config.get_text_config().vocab_size)
    most = max(1, LOGIT_BYTES // (4 * vocabulary))
    stride = -(-sum(map(len, probe.rows)) // most)
    logits, nats, count = [], 0.0, 0
    for row in probe.rows:
        ids = torch.tensor([row], device=device)
        said = model(input_ids=ids, use_cache=False).logits[0].float()
        nats += float(torch.nn.functional.cross_entropy(said[:-1], ids[0, 1:], reduction="sum"))
        count += len(row) - 1
        logits.append(said[::stride].cpu())
    greedy: list[list[Step]] = []
    for first in range(0, len(probe.prompt_ids), BATCH):
        greedy += _continue(model, probe.prompt_ids[first : first + BATCH], probe.end_of_text)
    return Answers(logits, nats / max(1, count), greedy)


def _continue(model: PreTrainedModel | PeftModel, prompts: list[list[int]], end_of_text: int) -> list[list[Step]]:
    """Greedy continuations of prompts that share a batch, padded on the left."""
    from transformers import GenerationConfig

    width = max(map(len, prompts))
    ids = torch.tensor([[end_of_text] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    plain = GenerationConfig(
        do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=end_of_text, pad_token_id=end_of_text,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    generate: Any = model.generate  # its hints have it as a Tensor
    written = generate(input_ids=ids, attention_mask=mask, generation_config=plain)
    texts: list[list[Step]] = [[] for _ in prompts]
    done: set[int] = set()
    for step, logits in enumerate(written.logits):
        top = torch.log_softmax(logits.float(), dim=-1).topk(TOP)
        tokens = written.sequences[:, width + step].tolist()
        for i, (token, ids_K, values_K) in enumerate(
            zip(tokens, top.indices.tolist(), top.values.tolist(), strict=True)
        ):
            if i not in done:
                texts[i].append(Step(token, dict(zip(ids_K, values_K, strict=True))))
                done |= {i} if token == end_of_text else set()
    return texts
