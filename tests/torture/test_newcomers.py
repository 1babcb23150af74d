"""Sixty mistakes that people make on their first day, each as a process: one line with the fix, the exit code, nothing
left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.warm import Warm

TINY = "{tiny}"
# what was typed, exit code, a word of the fix
MISTAKES: list[tuple[list[str], int, str]] = [
    (["trian"], 2, "train"),
    (["evalute"], 2, "evaluate"),
    (["--learning-rate", "1"], 2, "--help"),
    (["help", "trian"], 2, "train"),
    (["train", "nothing.jsonl"], 3, "nothing.jsonl"),
    (["train", "quotez.jsonl"], 3, "quotes.jsonl"),
    (["train", "./quotes"], 3, "quotes.jsonl"),
    (["train", "notes.org"], 3, "Convert"),
    (["train", "empty.jsonl"], 3, "row"),
    (["train", "empty-folder"], 3, "Put"),
    (["train", "utf16.jsonl"], 3, "iconv"),
    (["train", "latin1.jsonl"], 3, "UTF-8"),
    (["train", "excel.csv"], 3, "damaged"),
    (["train", "https://a.org/quotes.csv"], 3, "curl"),
    (["train", "unlike.jsonl", "--tags-column", "w"], 3, "--tags-column"),
    (["train", "unlike.jsonl"], 3, "--text-column"),
    (["train", "null.jsonl"], 3, "null.jsonl:2"),
    (["train", "number.jsonl"], 3, "number.jsonl:2"),
    (["train", "cut.jsonl"], 3, "cut.jsonl:2"),
    (["train", "pretty.jsonl"], 3, "one line"),
    (["train", "separator.jsonl"], 3, "separator"),
    (["train", "Abirate/english_quotes"], 3, "HF_HUB_OFFLINE"),
    (["train", "quotes.jsonl", "more.jsonl"], 2, "more.jsonl"),
    (["train", "quotes.jsonl", "--epoch", "3"], 2, "--epochs"),
    (["train", "quotes.jsonl", "--lerning_rate", "3"], 2, "--learning-rate"),
    (["train", "quotes.jsonl", "--lr", "hot"], 2, "--learning-rate"),
    (["train", "quotes.jsonl", "--batch-sizes", "4"], 2, "--batch-size"),
    (["train", "quotes.jsonl", "--bits", "5"], 2, "8"),
    (["train", "quotes.jsonl", "--bits", "eight"], 2, "bits"),
    (["train", "quotes.jsonl", "--rank", "0"], 2, "1 or more"),
    (["train", "quotes.jsonl", "--rank", "99999", "--model", TINY], 2, "rank"),
    (["train", "quotes.jsonl", "--epochs", "-1"], 2, "0 or more"),
    (["train", "quotes.jsonl", "--learning-rate", "nan"], 2, "finite"),
    (["train", "quotes.jsonl", "--learning-rate"], 2, "learning-rate"),
    (["train", "quotes.jsonl", "--held-out", "1.5"], 2, "less than 1"),
    (["train", "quotes.jsonl", "--seed", "-1"], 2, "0 or more"),
    (["train", "quotes.jsonl", "--max-steps", "0"], 2, "1 or more"),
    (["train", "quotes.jsonl", "--max-length", "2"], 2, "8 or more"),
    (["train", "quotes.jsonl", "--template", "{quote} by {writer}"], 3, "writer"),
    (["train", "quotes.jsonl", "--template", "quote"], 2, "{name}"),
    (["train", "quotes.jsonl", "--template", "{quote}{tags}"], 2, "separator"),
    (["train", "quotes.jsonl", "--template", "{quote.x} ->: {tags}"], 2, "{name}"),
    (["train", "quotes.jsonl", "--model", "bloom-560m"], 4, "Hub id"),
    (["train", "quotes.jsonl", "--model", "./bloom"], 4, "seedling"),
    (["train", "quotes.jsonl", "--model", "bigscience/bloom-560m"], 4, "HF_HUB_OFFLINE"),
    (["train", "quotes.jsonl", "--model", "empty-folder"], 4, "config.json"),
    (["train", "quotes.jsonl", "--model", "quotes.jsonl"], 4, "folder"),
    (["train", "quotes.jsonl", "--model", "only-config"], 4, "safetensors"),
    (["train", "quotes.jsonl", "--dora"], 2, "--bits 16"),
    (["train", "quotes.jsonl", "--device", "cuda", "--model", TINY], 4, "--device cpu"),
    (["train", "quotes.jsonl", "--device", "gpu"], 2, "cuda"),
    (["train", "quotes.jsonl", "--fast", "warp", "--model", TINY], 2, "--kernels"),
    (["train", "quotes.jsonl", "--optimizer", "adamw-8bit", "--model", TINY], 2, "--optimizer adamw"),
    (["train", "quotes.jsonl", "--target-modules", "q_proj", "--model", TINY], 2, "auto"),
    (["train", "quotes.jsonl", "--report-to", "nowhere"], 2, "tensorboard"),
    (["train", "quotes.jsonl", "--output", "busy"], 2, "--force"),
    (["train", "quotes.jsonl", "--output", "quotes.jsonl"], 2, "already there"),
    (["train", "--config", "missing.yaml"], 2, "--print-config"),
    (["train", "--config", "bad.yaml"], 2, "rank"),
    (["train", "--config", "tabs.yaml"], 2, "tabs.yaml:2"),
    (["train", "--config", "quotes.jsonl"], 2, "quotes.jsonl"),
    (["generate"], 4, "florilegium train"),
    (["generate", "--run", "no-such-run"], 4, "florilegium train"),
    (["generate", "-n", "0"], 2, "1 or more"),
    (["generate", "--temperature", "-1"], 2, "number"),
    (["generate", "--temperature", "hot"], 2, "temperature"),
    (["generate", "--prompts", "missing.txt"], 2, "text file"),
    (["generate", "--interactive", "Life"], 2, "PROMPT"),
    (["generate", "--run", "busy"], 4, "adapter"),
    (["resume"], 2, "resume"),
    (["resume", "no-such-run"], 4, "florilegium train"),
    (["resume", "busy"], 4, "config.yaml"),
    (["resume", "--rank"], 2, "rank"),
    (["inspect", "nothing.jsonl"], 3, "nothing.jsonl"),
    (["inspect", "null.jsonl", "--strict"], 3, "null.jsonl:2"),
    (["completion", "powershell"], 2, "bash"),
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, quotes: Path) -> Path:
    """A folder with the files that the mistakes are made with."""
    folder = tmp_path_factory.mktemp("desk")
    good = '{"quote": "Be kind.", "tags": ["life"]}\n'
    files = {
        "more.jsonl": good,
        "notes.org": "x",
        "empty.jsonl": "",
        "unlike.jsonl": '{"u": "a", "v": "b"}\n',
        "null.jsonl": good + '{"quote": null, "tags": []}\n',
        "number.jsonl": good + '{"quote": 7, "tags": []}\n',
        "cut.jsonl": good + '{"quote": "B',
        "pretty.jsonl": '{\n  "quote": "a",\n  "tags" []\n}\n',
        "separator.jsonl": '{"quote": "a ->: b", "tags": []}\n',
        "bad.yaml": "rnk: 8\n",
        "tabs.yaml": "rank: 8\n\tseed: 1\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "utf16.jsonl").write_bytes(good.encode("utf-16")[:-1])
    (folder / "latin1.jsonl").write_bytes(good.replace("kind", "cafÿ").encode("latin-1"))
    (folder / "excel.csv").write_bytes(b"PK\x03\x04rest")
    (folder / "empty-folder").mkdir()
    (folder / "only-config").mkdir()
    (folder / "only-config" / "config.json").write_text(json.dumps({"model_type": "bloom"}))
    (folder / "busy").mkdir()
    (folder / "busy" / "thesis.txt").write_text("years of work")
    shutil.copy(quotes, folder / "quotes.jsonl")
    return folder


@pytest.mark.parametrize("bits", [16, 32])
def test_plain_widths_train_and_generate(warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, bits: int) -> None:
    """A base that is not quantised computes as it is held, in training and behind it; asking for another way is a usage
    error."""
    settings = ["--model", str(tiny), "--bits", str(bits), "--max-steps", "2", "--output", "run"]
    other = {16: "float32", 32: "bfloat16"}[bits]
    refused = warm.run(["train", quotes, *settings, "--compute", other], cwd=tmp_path)
    assert refused.code == 2 and "Drop --dtype" in refused.last_line and not (tmp_path / "run").exists()
    assert warm.run(["train", quotes, *settings], cwd=tmp_path).code == 0
    written = warm.run(["generate", "--run", "run", "-n", "1", "--max-new-tokens", "3"], cwd=tmp_path)
    assert written.code == 0, written.err


def test_sixty_mistakes(warm: Warm, desk: Path, tiny: Path, figure: Callable[[str, str], None]) -> None:
    good, bad = 0, []
    before = {p: p.stat().st_mtime_ns for p in desk.rglob("*")}
    for arguments, code, word in MISTAKES:
        child = warm.run([a.replace(TINY, str(tiny)) for a in arguments], cwd=desk)
        lines = [line for line in child.err.splitlines() if line.startswith("florilegium: ")]
        one_line = len(lines) == 1 and child.last_line == lines[0] and word in lines[0] and child.out == ""
        untouched = {p: p.stat().st_mtime_ns for p in desk.rglob("*")} == before
        assert "Traceback" not in child.err, (arguments, child.err)
        if child.code == code and one_line and untouched:
            good += 1
        else:
            bad.append((" ".join(arguments), child.code, code, word, child.last_line, untouched))
    assert not bad, "\n".join(map(str, bad))
    figure(
        "newcomers",
        f"{good} of {len(MISTAKES)} give one line with the fix and the exit code, and leave nothing behind; 0 tracebacks",
    )
