"""A model that is no BLOOM: its own forward pass, padded rows of one quote each, the same commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import florilegium
from tests.tiny import make_tokenizer


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=400, tie_word_embeddings=True, **shape)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def quotes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "quotes.jsonl"
    rows = [
        {"quote": f"Be kind to the {w}{' and the sea' * i}.", "tags": [w]}
        for i in range(8)
        for w in ("sea", "home", "river", "boat")
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.parametrize("more", [{"bits": 8}, {"bits": 32, "neftune_alpha": 5.0}, {"bits": 8, "memory": "lean"}])
def test_it_trains_saves_and_writes(llama: Path, quotes: Path, tmp_path: Path, more: dict) -> None:
    more |= {"split_by": "random"}  # these rows are all near-copies of one another: by cluster none could be held out
    trained = florilegium.train(
        quotes, model=str(llama), output=str(tmp_path / "run"), max_steps=8, learning_rate=5e-3, verdict_texts=0, **more
    )
    assert trained.figures["eval_loss"] < trained.figures["eval_loss_before"]
    tuned = florilegium.load(tmp_path / "run")
    rows = tuned.generate(["Be kind", "The"], n=2, temperature=0.0, max_new_tokens=6)
    assert [r.text for r in rows] == [
        r.text for p in ("Be kind", "The") for r in tuned.generate(p, n=2, temperature=0.0, max_new_tokens=6)
    ]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, ""),
        ({"lora_dropout": 0.1, "memory": "lean"}, ""),
        ({"dora": True, "bits": 32}, "layers.0.self_attn.q_proj: the adapter is not plain LoRA"),
        ({"neftune_alpha": 5.0}, "--neftune-alpha"),
        ({"kernels": "chunked-loss"}, None),
    ],
)
def test_the_first_lines_say_what_keeps_its_layers_from_being_fused(
    llama: Path, quotes: Path, tmp_path: Path, more: dict, says: str | None
) -> None:
    from florilegium.runs.recorder import NullView

    lines: list[str] = []

    class Lines(NullView):
        def say(self, line: str) -> None:
            lines.append(line)

    given = {"bits": 8, "split_by": "random", "max_steps": 1, "verdict_texts": 0, "device": "cpu", **more}
    florilegium.train(quotes, model=str(llama), output=str(tmp_path / "run"), view=Lines(), **given)
    (kernels,) = (line for line in lines if line.startswith("kernels"))
    reasons = [line for line in lines if "layers as Transformers runs them" in line]
    assert ("fused-layers" in kernels) is (says == "")
    assert [says in reason for reason in reasons] == ([True] if says else [])


@pytest.mark.parametrize("kernels", ["fused-layers", "auto,fused-layers", "chunked-loss"])
def test_fused_layers_asked_for_by_name_are_refused_before_a_step(
    llama: Path, quotes: Path, tmp_path: Path, kernels: str
) -> None:
    from florilegium.errors import UsageError

    given = {"bits": 8, "split_by": "random", "max_steps": 1, "verdict_texts": 0, "device": "cpu", "neftune_alpha": 5.0}

    def train() -> None:
        florilegium.train(quotes, model=str(llama), output=str(tmp_path / "run"), kernels=kernels, **given)

    if "fused-layers" not in kernels:
        return train()
    with pytest.raises(UsageError, match="'fused-layers' is not supported here: --neftune-alpha"):
        train()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_padded_losses_equal_the_stock_loss(llama: Path, quotes: Path) -> None:
    from florilegium.model import ForwardOptions, LoadedModel
    from florilegium.tokens import PackPlan

    base = florilegium.load_base(str(llama), bits=32, device=torch.device("cpu"))
    rows = florilegium.read_rows(quotes)
    examples = florilegium.encode(base.tokenizer, rows.template, rows.quotes[:6]).examples
    batches = florilegium.pack(examples, PackPlan(separate=True))
    loaded, options = LoadedModel(base, base.model), ForwardOptions(("chunked-loss",))
    with torch.no_grad():
        ours = sum(float(florilegium.token_losses(loaded, b, options).sum()) for b in batches)
        stock = 0.0
        for example in examples:
            ids = torch.tensor([example.token_ids])
            stock += float(base.model(ids, labels=ids).loss) * (ids.shape[1] - 1)
    assert ours == pytest.approx(stock, rel=1e-5)
