"""The recipe's teacher, on toy inputs and a CPU: its decoder, what it says of its own answers, its unpacked weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
torch = pytest.importorskip("torch")

from tools.seedling import decoder  # noqa: E402


@pytest.fixture(scope="module")
def tiny_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
        initializer_range=0.4,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_teacher_greedy_equals_transformers(tiny_llama):
    stop_V, line_V = torch.zeros(97, dtype=torch.bool), torch.zeros(97, dtype=torch.bool)
    ours = decoder.Decoder(tiny_llama, 3, 40, decoder.Sampling(temperature=0, presence=0.0), stop_V, line_V)
    shared = [5, 6, 7]
    ours.share(shared)
    generator = torch.Generator().manual_seed(1)
    requests = []
    for length, max_new in ((4, 9), (1, 20), (7, 3), (5, 12), (2, 1), (6, 16), (3, 8)):
        ids = torch.randint(0, 97, (length,), generator=generator).tolist()
        requests.append(decoder.Request(ids, length - 1, max_new, one_line=False))
    answers = {answer.index: answer.token_ids for answer in ours.answers(requests)}
    assert sorted(answers) == list(range(len(requests)))
    for index, request in enumerate(requests):
        prompt = torch.tensor([shared + request.token_ids])
        expected = tiny_llama.generate(
            prompt, max_new_tokens=request.max_new, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert answers[index] == expected[0, len(shared) + request.answer_start :].tolist()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_teacher_says_how_likely_an_answer_is_and_which_token_leads(tiny_llama, family):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    model = tiny_llama
    if family == "qwen2":
        torch.manual_seed(3)
        small = Qwen2Config(**{k: getattr(model.config, k) for k in (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "initializer_range")}, tie_word_embeddings=True)  # fmt: skip
        model = Qwen2ForCausalLM(small).eval()
        for layer in model.model.layers:
            torch.nn.init.normal_(layer.self_attn.q_proj.bias)
            torch.nn.init.normal_(layer.self_attn.v_proj.bias)
    none_V, kept_V = torch.zeros(97, dtype=torch.bool), torch.arange(97) % 7 != 3
    ours = decoder.Decoder(model, 2, 40, decoder.Sampling(temperature=0, presence=0.0), none_V, none_V, kept_V, (8, 1))
    ours.share([5, 6])
    ours.keeps_states = True
    requests = [decoder.Request([8, 9, 11], 1, 4, one_line=False), decoder.Request([4], 1, 6, one_line=False)]
    for answer in ours.answers(requests):
        request = requests[answer.index]
        row = [5, 6, *request.token_ids[: request.answer_start], *answer.token_ids]
        with torch.no_grad():
            logits = model(torch.tensor([row])).logits[0].masked_fill(~kept_V, float("-inf"))
        begins = 2 + len(request.token_ids)
        chosen = torch.tensor(row[begins:])
        assert len(chosen) == request.max_new and chosen.tolist() == logits[begins - 1 : -1].argmax(-1).tolist()
        of_each = logits[begins - 1 : -1].log_softmax(-1).gather(1, chosen[:, None])
        assert answer.likelihood == pytest.approx(of_each.mean().item(), rel=1e-4)
        assert answer.lead == pytest.approx((logits[-2, 8] - logits[-2, 1]).item(), abs=1e-4)
        assert answer.state_D is not None
        again = (answer.state_D.float() @ model.lm_head.weight.detach().T).masked_fill(~kept_V, float("-inf"))
        assert again.argmax() == chosen[-1] and torch.allclose(again[kept_V], logits[-2][kept_V], rtol=0.01, atol=0.02)


def test_teacher_stops_at_its_stop_tokens(tiny_llama):
    free = decoder.Decoder(
        tiny_llama,
        2,
        40,
        decoder.Sampling(temperature=0, presence=0.0),
        torch.zeros(97, dtype=torch.bool),
        torch.zeros(97, dtype=torch.bool),
    )
    free.share([5])
    request = decoder.Request([8, 9], 2, 20, one_line=True)
    [answer] = free.answers([request])
    ids = answer.token_ids
    assert not answer.stopped
    stop_V = torch.zeros(97, dtype=torch.bool)
    stop_V[ids[4]] = True
    for stops, lines in ((stop_V, torch.zeros_like(stop_V)), (torch.zeros_like(stop_V), stop_V)):
        ours = decoder.Decoder(tiny_llama, 2, 40, decoder.Sampling(temperature=0, presence=0.0), stops, lines)
        ours.share([5])
        [cut] = ours.answers([request])
        # a line break may hold the full stop before it, so it is kept
        assert cut.stopped and cut.token_ids == ids[: ids.index(ids[4]) + bool(lines.any())]


def test_sampling_follows_the_probabilities():
    logits = torch.tensor([[2.0, 1.0, 0.0, -9.0]]).repeat(20_000, 1)
    torch.manual_seed(0)
    noise = torch.empty_like(logits).exponential_()
    chosen = decoder.choose(logits, torch.zeros_like(logits, dtype=torch.bool), noise, decoder.Sampling(1.0, 0.2, 0.0))
    share = torch.bincount(chosen, minlength=4) / 20_000
    expected = torch.tensor([2.0, 1.0]).softmax(0)  # the third is less than 0.2 of the first
    assert torch.allclose(share[:2], expected, atol=0.02) and share[2:].sum() == 0


def test_teacher_is_unpacked_as_llama_cpp_packs_it():
    import numpy as np
    from gguf import GGMLQuantizationType as Kind
    from gguf import dequantize

    from tools.seedling.gguf_weights import unpack_q4_k, unpack_q6_k

    rng = np.random.default_rng(0)
    for kind, way, size, halves in ((Kind.Q4_K, unpack_q4_k, 144, (0, 2)), (Kind.Q6_K, unpack_q6_k, 210, (208,))):
        packed = rng.integers(0, 256, (50, size), dtype=np.uint8)
        for at in halves:  # random bytes would make some of the scales infinite
            packed[:, at : at + 2] = rng.normal(size=50).astype(np.float16).view(np.uint8).reshape(50, 2)
        assert torch.equal(way(torch.from_numpy(packed)), torch.from_numpy(dequantize(packed, kind)))


def test_a_tiny_teacher_writes_and_judges_a_chunk():
    """The stage whole, with a teacher that says nothing sensible: requests fit, sayings are judged, rows are complete."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tools.seedling import teacher
    from tools.seedling.prompts import prompts
    from tools.seedling.tokenizer import train_tokenizer

    asked = list(prompts(0, 0, 40))
    texts = [*teacher.SHARED.values(), *(prompt.request for prompt in asked), "Yes No Saying: Answer:"]
    tokenizer = train_tokenizer(iter(texts * 3), 700)
    tokenizer.add_special_tokens({"additional_special_tokens": list(teacher.STOPS)})
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    sampling = decoder.Sampling(0.8, 0.1, 0.2)
    ours = teacher.make_decoder(Qwen2ForCausalLM(config).eval(), tokenizer, 16, 1200, sampling)
    rows, states = teacher.answer_chunk(ours, asked, tokenizer)
    assert states.shape == (sum("sense" in row for row in rows), 17)
    assert {row["form"] for row in rows} >= {"saying"} and len(rows) > 25
    assert all(row["likelihood"] < 0 and "\n" not in row["text"] for row in rows if row["form"] == "saying")
    judged = teacher.judge(ours, ["A good man waits.", "Time is time."], tokenizer)
    assert sorted(judged) == [0, 1] and judged[0].lead != judged[1].lead
