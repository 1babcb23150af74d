"""The recipe's student, on toy inputs and a CPU: tokenizer, packing, forward pass, and training that resumes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
torch = pytest.importorskip("torch")


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


def test_tokenizer_is_built_like_blooms(toy_work):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(toy_work / "tokenizer")
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<pad>"]) == [0, 1, 2, 3]
    assert tokenizer.eos_token_id == 2 and tokenizer.pad_token_id == 3
    for text in ("The old man.", " two  spaces ", "tabs\tand\nlines\n\n", "漢字 é 🙂 1999", 'it\'s ("quoted") | [x] .'):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    head, whole = tokenizer("the sea. ->:").input_ids, tokenizer("the sea. ->: hope, light").input_ids
    assert whole[: len(head)] == head and head[0] != 1


def test_attention_by_blocks_equals_attention_by_a_mask():
    from tools.seedling.student import attend_densely, attend_in_blocks, document_bias, document_mask, slopes

    torch.manual_seed(0)
    tokens = torch.randint(4, 100, (2, 64))
    tokens[:, 0] = tokens[0, 20] = tokens[1, 33] = tokens[1, 50] = 2
    hide, of_each = torch.rand(2, 64) < 0.5, torch.tensor(slopes(5))
    query, key, value = (torch.randn(2, 5, 64, 16) for _ in range(3))
    dense = attend_densely(query, key, value, of_each, document_bias(tokens, of_each, torch.float32, hide))
    assert torch.allclose(attend_in_blocks(query, key, value, of_each, document_mask(tokens, hide)), dense, atol=1e-5)


def test_training_ends_on_the_finest_rows():
    from tools.seedling.pretrain import FINE_FROM, FINE_SHARE, batch_of

    rows, fine = torch.zeros(40, 5, dtype=torch.int16), torch.ones(7, 5, dtype=torch.int16)
    shares = [batch_of(step, 100, rows, fine, 20, 0).float().mean().item() for step in range(100)]
    assert all(share == 0 for share in shares[: int(100 * FINE_FROM)])
    assert shares[int(100 * FINE_FROM) :] == pytest.approx([int(FINE_SHARE * 20) / 20] * (100 - int(100 * FINE_FROM)))
