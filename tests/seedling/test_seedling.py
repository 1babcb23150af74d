"""The seedling and its sayings, as they ship: small enough, plain Transformers loads it, int8 costs it nothing, its
tags can be learned."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from florilegium import fast
from florilegium.data import Template, read_rows
from florilegium.model import ForwardOptions, LoadedModel, load_base, token_losses
from florilegium.seedling import FOLDER, SAYINGS
from florilegium.tokens import PackPlan, encode, pack, text_ids


def test_the_sayings_are_many_tagged_in_order_and_unlike_each_other() -> None:
    rows = [json.loads(line) for line in SAYINGS.read_text(encoding="utf-8").splitlines()]
    tags = {tag for row in rows for tag in row["tags"]}
    assert len(rows) >= 2400 and len(tags) == 80
    assert all(1 <= len(row["tags"]) <= 4 and row["tags"] == sorted(set(row["tags"])) for row in rows)
    words = [frozenset(re.findall(r"[a-z']+", row["quote"].lower())) for row in rows]
    near = [
        (i, j)
        for i, j in itertools.combinations(range(len(rows)), 2)
        if len(words[i] & words[j]) > 0.6 * len(words[i] | words[j])
    ]
    assert near == []


def test_it_is_small_and_plain_transformers_loads_it() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, BloomForCausalLM

    assert sum(p.stat().st_size for p in FOLDER.iterdir() if p.is_file()) <= 30_000_000
    model, tokenizer = AutoModelForCausalLM.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
    assert isinstance(model, BloomForCausalLM) and 12e6 < model.num_parameters() < 16e6
    assert model.config.hidden_size // model.config.n_head in (64, 80, 96, 128)  # the head dimensions of the GPU path
    special = ("<unk>", "<s>", "</s>", "<pad>")
    assert [tokenizer.convert_tokens_to_ids(t) for t in special] == [0, 1, 2, 3] and len(tokenizer) == 8192
    for text in ("The sea keeps what it takes. ->: sea, time", "naïve “quotes” — 漢字 \U0001f33b\n\ttabs  and  spaces"):
        assert tokenizer.decode(text_ids(tokenizer, [text])[0], clean_up_tokenization_spaces=False) == text


def test_int8_changes_its_loss_on_sayings_by_less_than_half_a_percent() -> None:
    quotes = read_rows("sample").quotes[:100]
    losses = []
    for bits in (8, 32):
        base = load_base("seedling", bits=bits, device=torch.device("cpu"), compute="float32")
        fast.install_kernels(base.model, ("quantized-linear",))
        batches = pack(encode(base.tokenizer, Template.from_text("{quote}"), quotes).examples, PackPlan())
        loaded, options = LoadedModel(base, base.model), ForwardOptions(("chunked-loss",))
        with torch.no_grad():
            losses.append(sum(float(token_losses(loaded, b, options).sum()) for b in batches))
    print("int8 / float32:", losses[0] / losses[1])
    assert abs(losses[0] / losses[1] - 1) < 0.005


@pytest.mark.slow
def test_tuned_with_the_defaults_it_passes_its_bars(tmp_path: Path) -> None:
    """The figures of bench/train/seedling.py after `florilegium train`."""
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-m", "florilegium", "train", "--output", "run"], cwd=tmp_path, check=True, capture_output=True
    )
    done = subprocess.run(
        [sys.executable, "-m", "bench.train.seedling", "--run", str(tmp_path / "run"), "--json"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    print({k: v for k, v in figures.items() if k != "texts"})
    assert figures["parse_and_stop"] >= 0.95 and figures["copies"] < 0.05
    assert (
        figures["tag_f1_tuned"] >= 5 * figures["tag_f1_untuned"]
        and figures["tag_f1_tuned"] >= 2 * figures["tag_f1_most_frequent"]
    )
