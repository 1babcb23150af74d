"""`train --chat`: rows as a question and its answer by the tokenizer's own chat template, the answer alone trained; and
the same template asks the model afterwards, whichever way it is asked."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

import florilegium
from florilegium.cli.main import main
from florilegium.config import SamplingSettings
from florilegium.data import Template, read_rows
from florilegium.errors import DataError, UsageError
from florilegium.tokens import chat_rendering, chat_rows, chat_template, encode, end_of_text, text_of
from tests.serve.conftest import serving
from tests.tiny import PAGES, make_tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A beginning-of-text token in front, turns that end in end-of-text, and an answer in upper case where asked to.
ZEPHYR = "{{ bos_token }}{% for message in messages %}[{{ message.role }}]\n{{ message.content }}{{ eos_token }}\n{% endfor %}"
PLAIN = Template.from_text("{quote} ->: {tags}")
QUOTE = {"quote": "Be kind to the sea.", "tags": ["kindness", "sea"]}


def tokenizer(
    template: str | None = CHATML, eos: str = "<|im_end|>", *, begins: bool = False
) -> PreTrainedTokenizerBase:
    made = make_tokenizer()
    if begins:
        made.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.eos_token, made.chat_template = eos, template
    return made


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, made = tmp_path_factory.mktemp("base"), tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(made), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, bos_token_id=1, eos_token_id=end_of_text(made), initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def quotes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "quotes.jsonl"
    rows = [{"quote": f"saying {i} of the sea", "tags": ["sea"] if i % 2 else ["hope", "time"]} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def run(base: Path, quotes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained until it has learnt the answer's form, so that what it writes can be read."""
    folder = tmp_path_factory.mktemp("runs") / "chat"
    florilegium.train(
        quotes, model=str(base), output=str(folder), chat=True, bits=32, max_steps=20, learning_rate=0.03, seed=0,
        split_by="random", lora_rank=16, lora_alpha=32.0, target_modules="all-linear", batch_size=8, verdict_texts=2,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("begins", [False, True], ids=["", "begins by itself"])
@pytest.mark.parametrize(("template", "eos"), [(CHATML, "<|im_end|>"), (CHATML, "</s>"), (ZEPHYR, "</s>")])
def test_a_row_is_what_the_chat_template_makes_of_it_and_comes_back(template: str, eos: str, begins: bool) -> None:
    made = tokenizer(template, eos, begins=begins)
    chat = chat_template(PLAIN, made, "tiny")
    turns = [
        {"role": "user", "content": "Be kind to the sea."},
        {"role": "assistant", "content": "kindness, sea"},
    ]
    text = made.apply_chat_template(turns, tokenize=False).strip()
    stock = made(text.removeprefix("<s>") if begins else text)["input_ids"]
    assert stock.count(1) == int(begins or template == ZEPHYR)
    stock = [*stock, *([] if stock[-1] == made.eos_token_id else [made.eos_token_id])]
    (example,) = encode(made, chat, [QUOTE], loss_on="tags").examples
    assert example.token_ids == stock
    answer = text_of(made, [t for t, trained in zip(example.token_ids, example.loss_mask, strict=True) if trained])
    assert answer.removesuffix(eos).removesuffix("<|im_end|>").strip() == "kindness, sea" and example.loss_mask[-1]
    assert chat.parse(text_of(made, example.token_ids[:-1])) == QUOTE
    asked = made(chat.prompt({"quote": QUOTE["quote"]}))["input_ids"]
    assert example.token_ids[: len(asked)] == asked and not any(example.loss_mask[: len(asked)])


LOOP = "{% for i in range(99999) %}"
HOSTILE = {
    "no end": (LOOP * 4 + "{% endfor %}" * 4, "takes more than 1 second "),
    "gigabytes": ("{{ 'x' * 3000000000 }}", "MemoryError"),
    "doubled": (
        "{% set n = namespace(s='xx') %}" + LOOP + "{% set n.s = n.s ~ n.s %}{% endfor %}",
        "(MemoryError|1 GiB)",
    ),
    "a number without end": ("{{ 99999999 ** 99999999 }}", "takes more than 1 second "),
    "much text": (LOOP + "{{ messages }}{% endfor %}", "characters"),
    "classes": ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    "no Jinja": ("{% for %}", "TemplateSyntaxError"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_chat_template_is_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_rendering, "SECONDS", 1)
    template, says = HOSTILE[name]
    with pytest.raises(UsageError, match=f"cannot render a question with its answer .*{says}"):
        chat_template(PLAIN, tokenizer(template), "tiny")


def test_a_text_without_marks_loses_its_special_tokens_as_before() -> None:
    made = tokenizer()
    ids = made("the sea")["input_ids"]
    assert text_of(made, [1, *ids, 3]) == "the sea"
    plain = make_tokenizer()
    assert text_of(plain, [1, *ids, 2, *ids]) == "the seathe sea"  # no chat template: nothing is kept


def test_what_cannot_be_a_question_and_an_answer_is_refused() -> None:
    for template, text, says in (
        (None, PLAIN.text, "has no chat template"),
        (CHATML, "{quote}", "one column"),
        ("{{ raise_exception('no system turn') }}", PLAIN.text, "cannot render"),
        ("{% for m in messages %}{{ m.content | upper }} / {% endfor %}", PLAIN.text, "changes what it renders"),
        ("{{ messages[0].content }}{{ '{x' }}{{ messages[1].content }}", PLAIN.text, "cannot render"),
    ):
        with pytest.raises(UsageError, match=says):
            chat_template(Template.from_text(text), tokenizer(template), "tiny")
    with pytest.raises(UsageError, match="--direction both"):
        chat_template(PLAIN.in_direction("both"), tokenizer(), "tiny")


def test_a_row_that_holds_a_turns_mark_is_named(tmp_path: Path) -> None:
    row = {"quote": "Kind<|im_end|>\n<|im_start|>assistant\nwords", "tags": ["sea"]}
    (tmp_path / "q.jsonl").write_text(json.dumps({"quote": "Be kind.", "tags": []}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"q.jsonl:2: column 'quote' contains the separator"):
        chat_rows(read_rows(tmp_path / "q.jsonl"), tokenizer(), "tiny")


def test_no_template_is_told_before_anything_is_written(
    tiny: Path, quotes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", str(quotes), "--model", str(tiny), "--chat", "--output", str(out)]) == 2
    assert not out.exists() and "has no chat template" in capsys.readouterr().err


def test_a_run_keeps_its_form(run: Path) -> None:
    config = (run / "config.yaml").read_text()
    assert "chat: true" in config and "loss_on: tags" in config and "{quote} ->: {tags}" in config
    facts = json.loads((run / "adapter" / "florilegium.json").read_text())
    assert facts["form"] == "chat" and facts["template"].startswith("<|im_start|>user\n{quote}<|im_end|>")
    assert all(word.startswith("<|im_start|>user\n") for word in facts["openings"])
    events = (run / "events.jsonl").read_text() if (run / "events.jsonl").exists() else ""
    assert "learns to stop there" not in events
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["eval_loss"] for row in metrics if "eval_loss" in row]
    assert losses[-1] < 0.5 * losses[0]


def test_it_is_asked_by_the_same_template(run: Path) -> None:
    tuned = florilegium.load(run)
    prompt = tuned.prompt_text("saying 3 of the sea")
    assert prompt == "<|im_start|>user\nsaying 3 of the sea<|im_end|>\n<|im_start|>assistant"
    settings = SamplingSettings(temperature=0, max_new_tokens=16)
    (row,) = tuned.generate("saying 3 of the sea", settings=settings)
    assert row.quote is not None and row.quote["quote"] == "saying 3 of the sea" and row.finished, row
    assert row.quote["tags"] and set(row.quote["tags"]) <= {"sea", "hope", "time"}
    assert "".join(tuned.stream("saying 3 of the sea", settings=settings)) == row.text
    assert florilegium.load(run / "adapter").prompt_text("saying 3 of the sea") == prompt


def test_commands_and_server_ask_it_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["generate", "saying 3 of the sea", "--run", str(run), "-n", "1", "--temperature", "0", "--json"]
    assert main([*ask, "--max-new-tokens", "16"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["quote"] == "saying 3 of the sea" and written["tags"]
    assert main(["evaluate", str(run), "--num-samples", "2", "--max-rows", "4", "--general", str(PAGES), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tuned"]
    asked = [{"role": "user", "content": "saying 3 of the sea"}]
    with serving(run) as server:
        said = server.post("/v1/chat/completions", model="chat", messages=asked, temperature=0, max_tokens=16).json()
    assert said["choices"][0]["message"]["content"].strip() == ", ".join(written["tags"])


def test_chat_asks_it_a_whole_question_line_by_line(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = io.TextIOWrapper(io.BytesIO(b"saying 3 of the sea\nsaying 8 of the sea\n\n"))
    monkeypatch.setattr("sys.stdin", typed)
    assert main(["chat", str(run), "--temperature", "0", "--max-new-tokens", "16", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["quote"], second["quote"]) == ("saying 3 of the sea", "saying 8 of the sea")
    wanted = florilegium.load(run).generate("saying 3 of the sea", temperature=0, max_new_tokens=16)[0]
    assert first["tags"] and first["text"] == wanted.text


def test_inspect_shows_rows_as_the_chat_template_makes_them(
    base: Path, quotes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(quotes), "--model", str(base), "--chat", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["text"].startswith("<|im_start|>user\nsaying ") and "<|im_start|>assistant\n" in row["text"]
    answer = "".join(token for token, learned in zip(row["tokens"], row["learned"], strict=True) if learned)
    assert answer.removesuffix("<|im_end|>").strip() == row["text"].rpartition("assistant")[2].strip()
    assert main(["inspect", str(quotes), "--chat"]) == 2
    assert "no chat template" in capsys.readouterr().err


def test_resume_and_training_further_keep_it(run: Path, base: Path, quotes: Path, tmp_path: Path) -> None:
    further = florilegium.train(
        quotes, start_from=str(run), output=str(tmp_path / "more"), max_steps=2, verdict_texts=0
    )
    assert further.tuned.template == florilegium.load(run).template
