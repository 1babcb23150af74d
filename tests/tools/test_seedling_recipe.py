"""The recipe's own logic, on toy inputs and a CPU."""

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


@pytest.fixture(scope="module")
def toy_work(tmp_path_factory):
    """A work folder as it stands after `pack`, with a small tokenizer and toy documents."""
    import json
    import random

    from tools.seedling import pack, tokenizer

    work = tmp_path_factory.mktemp("seedling")
    rng = random.Random(0)
    words = [
        "the",
        "old",
        "man",
        "and",
        "sea",
        "hope",
        "light",
        "of",
        "a",
        "garden",
        "rest",
        "time",
        "keeps",
        "waits",
        "for",
        "rain",
        "wind",
        "home",
    ]
    for name, count in (("train.jsonl", 400), ("heldout.jsonl", 40)):
        rows = [
            {"form": "saying", "topics": [], "document": " ".join(rng.choices(words, k=rng.randint(5, 60))) + "."}
            for _ in range(count)
        ]
        (work / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer.train_tokenizer(tokenizer.documents(work / "train.jsonl"), 300).save_pretrained(work / "tokenizer")
    pack.run(work, seed=0)
    return work


def test_pretraining_resumes_with_the_same_bits(toy_work, tmp_path):
    import shutil

    from safetensors.torch import load_file

    from tools.seedling import pretrain

    def train(folder, **how):
        pretrain.run(
            folder, 0, 5, 1e9, batch_rows=4, shape={"vocabulary": 300, "hidden": 20, "heads": 5, "layers": 2}, **how
        )

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        shutil.copytree(toy_work, folder)
    train(whole)
    train(broken, stop_after=7)
    assert (broken / "checkpoint.safetensors").exists() and not (broken / "student").exists()
    train(broken)
    first, second = (load_file(folder / "student" / "model.safetensors") for folder in (whole, broken))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert not (broken / "checkpoint.safetensors").exists()


def plain_kneser_ney(train, vocabulary, order, end=2):
    """The textbook recursion over dictionaries: `p(token, context)`."""
    from collections import Counter, defaultdict

    grams = [Counter() for _ in range(order + 1)]
    for document in train:
        tokens = [end] * (order - 1) + document + [end]
        for i in range(order - 1, len(tokens)):
            for n in range(1, order + 1):
                grams[n][tuple(tokens[i - n + 1 : i + 1])] += 1
    for n in range(1, order):
        grams[n] = Counter(gram[1:] for gram in grams[n + 1])
    by_context = [defaultdict(dict) for _ in range(order + 1)]
    taken = [[0, 0, 0, 0]]
    for n in range(1, order + 1):
        of = [max(1, sum(count == c for count in grams[n].values())) for c in (1, 2, 3, 4)]
        y = of[0] / (of[0] + 2 * of[1])
        taken.append([0.0] + [max(0.0, c - (c + 1) * y * of[c] / of[c - 1]) for c in (1, 2, 3)])
        for gram, count in grams[n].items():
            by_context[n][gram[:-1]][gram[-1]] = count

    def probability(token, context):
        n = len(context) + 1
        lower = probability(token, context[1:]) if n > 1 else 1 / vocabulary
        seen = by_context[n].get(context)
        if not seen:
            return lower
        total = sum(seen.values())
        freed = sum(taken[n][min(count, 3)] for count in seen.values())
        count = seen.get(token, 0)
        return (count - taken[n][min(count, 3)]) / total + freed / total * lower

    return probability


def test_kneser_ney_equals_the_textbook():
    import random

    import numpy as np

    from tools.seedling.kneser_ney import probabilities

    rng = random.Random(0)
    train = [[rng.choice([3, 4, 4, 5, 6, 6, 6, 7]) for _ in range(rng.randint(2, 12))] for _ in range(60)]
    test = [[4, 6, 6, 3, 9], [5], [6, 6, 6, 4, 4, 7, 3, 3]]
    oracle = plain_kneser_ney(train, 10, 4)
    expected = []
    for document in test:
        tokens = [2, 2, 2] + document + [2]
        expected += [oracle(tokens[i], tuple(tokens[i - 3 : i])) for i in range(3, len(tokens))]
    ours = probabilities([np.array(d) for d in train], [np.array(d) for d in test], 10, order=4)
    assert np.allclose(ours, expected, rtol=1e-12)
    assert abs(sum(oracle(token, (4, 6, 6)) for token in range(10)) - 1) < 1e-12


def test_training_forward_equals_stock_bloom():
    from tools.seedling.student import TrainingForward, new_student

    torch.manual_seed(0)
    model = new_student(100, 20, 5, 2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    first, second = [2, *range(10, 30), 2], [2, *range(40, 51), 2]
    forward = TrainingForward(model, torch.float32)

    def stock(document):
        logits = model(torch.tensor([document[:-1]])).logits[0]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(document[1:]), reduction="sum")

    assert torch.allclose(forward(torch.tensor([first])) * 21, stock(first), rtol=1e-5)
    packed = torch.tensor([first + second[1:] + [3, 3]])  # two documents in a row do not see each other
    assert torch.allclose(forward(packed) * 33, stock(first) + stock(second), rtol=1e-5)
    packed[0, 3] = 60
    hidden = forward(packed[:, :-1], torch.ones(1, packed.shape[1] - 2, dtype=torch.bool))
    assert torch.isfinite(hidden)


def test_packing_keeps_every_document_whole():
    import random

    from tools.seedling.pack import pack

    rng = random.Random(0)
    documents = [[rng.randint(4, 99) for _ in range(rng.choice((1, 5, 20, 61, 80)))] for _ in range(300)]
    rows = pack(documents, 64, seed=0)
    found = []
    for row in rows.tolist():
        row = row[: len(row) - row[::-1].index(2)]  # up to the closing </s>; the rest is padding
        assert row[0] == 2 and row[-1] == 2
        at = [i for i, token in enumerate(row) if token == 2]
        found += [row[a + 1 : b] for a, b in zip(at, at[1:], strict=False)]
    assert sorted(found) == sorted(document[:62] for document in documents)
    assert (rows == 3).mean() < 0.2


def test_filter_cleans_and_drops():
    from collections import Counter

    from tools.seedling import filter as sieve

    assert sieve.clean("saying", '"Patience is a slow river that still arrives."') == (
        "Patience is a slow river that still arrives.",
        "",
    )
    assert (
        sieve.clean("saying", "One is enough here. Two is more here. Three is too much.")[0]
        == "One is enough here. Two is more here."
    )
    assert sieve.clean("reflection", "A lovely morning came. " * 20)[1] == "circles"
    for text, reason in (
        ("Sure, here is a saying about the sea and time.", "talk about the task"),
        ("As an AI language model I cannot feel the sea.", "talk about the task"),
        ("Time is **the thief** of the morning light.", "markup or list"),
        ("Dear [friend's name] the sea is far away.", "markup or list"),
        ("Die Zeit läuft und die 海 bleibt hier stehen.", "script"),
        ("Too short.", "length"),
        ("No end to this sentence about the sea", "length"),
    ):
        assert sieve.clean("saying", text) == (None, reason), text
    rows = [
        {"form": "saying", "topics": [], "text": text}
        for text in (
            "The sea keeps what it takes.",
            "The sea keeps what it takes!",
            "A door is only a wall that forgives.",
        )
    ]
    counts = Counter()
    assert [row["text"] for row in sieve.drop_copies(rows, counts)] == [rows[0]["text"], rows[2]["text"]] and counts[
        "dropped: copy"
    ] == 1


def test_topics_are_named_where_they_are_mentioned():
    import random

    from tools.seedling import filter as sieve

    row = {"form": "saying", "topics": ["patience", "bread"], "text": "A patient man hears the sea."}
    assert sieve.topics_of(row) == ["bread", "patience", "sea"]
    assert sieve.topics_of(row | {"text": "No word of it here."}) == []
    documents = [sieve.render(row, random.Random(seed)) for seed in range(200)]
    assert all(row["text"] in document and "->" not in document for document in documents)
    assert 0.5 < sum(document != row["text"] for document in documents) / 200 < 0.85


def test_tokenizer_is_built_like_blooms(toy_work):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(toy_work / "tokenizer")
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<pad>"]) == [0, 1, 2, 3]
    assert tokenizer.eos_token_id == 2 and tokenizer.pad_token_id == 3
    for text in ("The old man.", " two  spaces ", "tabs\tand\nlines\n\n", "漢字 é 🙂 1999", 'it\'s ("quoted") | [x] .'):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    head, whole = tokenizer("the sea. ->:").input_ids, tokenizer("the sea. ->: hope, light").input_ids
    assert whole[: len(head)] == head and head[0] != 1


def test_prompts_are_seeded_and_diverse():
    from tools.seedling.prompts import CORE, EXTRA, prompts

    first, again, other = (list(prompts(0, chunk, 500)) for chunk in (3, 3, 4))
    assert first == again and first != other
    assert len(CORE) == 80 and len(EXTRA) >= 200 and not set(CORE) & set(EXTRA)
    assert len({(prompt.request, prompt.opening) for prompt in first}) > 490


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


def test_attention_by_blocks_equals_attention_by_a_mask():
    from tools.seedling.student import attend_densely, attend_in_blocks, document_bias, document_mask, slopes

    torch.manual_seed(0)
    tokens = torch.randint(4, 100, (2, 64))
    tokens[:, 0] = tokens[0, 20] = tokens[1, 33] = tokens[1, 50] = 2
    hide, of_each = torch.rand(2, 64) < 0.5, torch.tensor(slopes(5))
    query, key, value = (torch.randn(2, 5, 64, 16) for _ in range(3))
    dense = attend_densely(query, key, value, of_each, document_bias(tokens, of_each, torch.float32, hide))
    assert torch.allclose(attend_in_blocks(query, key, value, of_each, document_mask(tokens, hide)), dense, atol=1e-5)


def test_the_teachers_opinion_drops_what_it_doubts():
    from tools.seedling.filter import floors, opinion

    def saying(likelihood, sense):
        return {"form": "saying", "likelihood": likelihood, "sense": sense}

    rows = [saying(-i / 100, i / 10) for i in range(100)] + [{"form": "scene", "likelihood": -9.0}]
    least, least_sense = floors(rows)
    assert opinion(saying(-0.1, least_sense + 0.1), least, least_sense) == ""
    assert opinion(saying(-0.1, least_sense - 0.1), least, least_sense) == "senseless"
    assert opinion(saying(least["saying"] - 0.1, 9.0), least, least_sense) == "unsure"
    assert opinion({"form": "saying", "likelihood": -0.1}, least, least_sense) == "senseless"  # it was not judged
    assert opinion(rows[-1], least, least_sense) == ""
    kept = sum(not opinion(row, least, least_sense) for row in rows[:-1])
    assert 35 <= kept <= 45


def test_training_ends_on_the_finest_rows():
    from tools.seedling.pretrain import FINE_FROM, FINE_SHARE, batch_of

    rows, fine = torch.zeros(40, 5, dtype=torch.int16), torch.ones(7, 5, dtype=torch.int16)
    shares = [batch_of(step, 100, rows, fine, 20, 0).float().mean().item() for step in range(100)]
    assert all(share == 0 for share in shares[: int(100 * FINE_FROM)])
    assert shares[int(100 * FINE_FROM) :] == pytest.approx([int(FINE_SHARE * 20) / 20] * 25)


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
    rows = teacher.answer_chunk(ours, asked, tokenizer)
    assert {row["form"] for row in rows} >= {"saying"} and len(rows) > 25
    assert all(row["likelihood"] < 0 and "\n" not in row["text"] for row in rows if row["form"] == "saying")
    judged = teacher.judge(ours, ["A good man waits.", "Time is time."], tokenizer)
    assert sorted(judged) == [0, 1] and judged[0] != judged[1]
