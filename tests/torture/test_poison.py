"""Files that were made to harm: pickles, code, headers and numbers that ask for all memory, names that lead
elsewhere."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.torture.conftest import different_bits, train_arguments, weights
from tests.warm import Child, Warm

Change = Callable[[Path], None]


class Bomb:
    """A pickle that leaves a file behind when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch {self.mark}",))


def pickled(mark: Path) -> bytes:
    return pickle.dumps(Bomb(mark))


def torch_zip(mark: Path, path: Path) -> None:
    """What torch.save writes: a zip with data.pkl in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(mark))
        archive.writestr("archive/version", "3\n")


PICKLE_NAMES = [
    "adapter_model.bin", "pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "model.pkl",
    "consolidated.00.pth", "tokenizer.pkl", "spiece.model",
]  # fmt: skip


def weak(child: Child, code: int = 4) -> bool:
    """One line, the right code, no traceback, and less than a gigabyte taken."""
    assert child.code == code and child.last_line.startswith("florilegium: ") and "Traceback" not in child.err, (
        child.code,
        child.err[-800:],
    )
    return True


def test_no_code_runs(
    warm: Warm, tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path, amount: Callable[[int, int], int],
    figure: Callable[[str, str], None],
) -> None:  # fmt: skip
    mark = tmp_path / "code-ran"
    places = 0
    # Pickles beside what is read: nobody opens them.
    run, base = tmp_path / "run", tmp_path / "base"
    shutil.copytree(reference(), run)
    shutil.copytree(tiny, base)
    for folder in (run, run / "adapter", *run.glob("checkpoints/step-*"), base):
        for name in PICKLE_NAMES:
            (folder / name).write_bytes(pickled(mark)) if name.endswith("l") else torch_zip(mark, folder / name)
            places += 1
    assert (
        warm.run(["generate", "--run", run, "--model", base, "-n", "1", "--max-new-tokens", "3"], cwd=tmp_path).code
        == 0
    )
    shutil.rmtree(run / "adapter")
    assert warm.run(["resume", run], cwd=tmp_path).code == 0
    assert warm.run(train_arguments(base, quotes, tmp_path / "new", steps=2), cwd=tmp_path).code == 0
    # Pickles in place of what is read.
    files = ("adapter.safetensors", "optimizer.safetensors", "random.safetensors", "state.json", "manifest.json")
    for name in files[:: amount(2, 1)]:
        stopped = tmp_path / f"stopped-{name}"
        shutil.copytree(reference(), stopped)
        shutil.rmtree(stopped / "adapter")
        for checkpoint in stopped.glob("checkpoints/step-*"):
            torch_zip(mark, checkpoint / name)
        child = warm.run(["resume", stopped], cwd=tmp_path)
        assert child.code == 0 and child.err.count("skipped") >= 2 and "starting from step 0" in child.err, child.err
        assert different_bits(weights(stopped), weights(reference())) == 0
        places += 2
    for name in ("adapter_model.safetensors", "adapter_config.json", "florilegium.json"):
        adapter = tmp_path / f"adapter-{name}"
        shutil.copytree(reference() / "adapter", adapter)
        torch_zip(mark, adapter / name)
        weak(warm.run(["generate", "--run", adapter], cwd=tmp_path))
        places += 1
    only = tmp_path / "only-pickles"
    shutil.copytree(reference() / "adapter", only)
    (only / "adapter_model.safetensors").unlink()
    torch_zip(mark, only / "adapter_model.bin")
    weak(warm.run(["generate", "--run", only], cwd=tmp_path))
    places += 1 + _base_places(warm, tiny, quotes, tmp_path, mark)
    assert not mark.exists()
    bombs, largest = _bombs(warm, tiny, quotes, reference(), tmp_path, amount(5, 1))
    figure(
        "poison",
        f"{places} places for code, 0 ran; {bombs} bombs: exit 4 each, {largest:.0f} MiB of memory at most; deep JSON refused",
    )


def _base_places(warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, mark: Path) -> int:
    """A base that wants code of its own, or whose weights are a pickle."""
    code = f"open({str(mark)!r}, 'w')\nclass Evil: pass\n"

    def auto_map(name: str) -> Change:
        def change(folder: Path) -> None:
            values = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
            (folder / name).write_text(
                json.dumps(
                    {**values, "auto_map": {"AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}}
                )
            )
            (folder / "evil.py").write_text(code)

        return change

    def pickled_weights(folder: Path) -> None:
        torch_zip(mark, folder / "model.safetensors")

    def own_tokenizer(folder: Path) -> None:
        values = json.loads((folder / "tokenizer_config.json").read_text())
        values |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(values))
        (folder / "evil.py").write_text(code)

    def unknown_family(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, "model_type": "evil"}))
        (folder / "modeling_evil.py").write_text(code)

    changes = [auto_map("config.json"), auto_map("tokenizer_config.json"), auto_map("generation_config.json")]
    changes += [pickled_weights, own_tokenizer, unknown_family]
    for number, change in enumerate(changes):
        folder = tmp_path / f"evil-base-{number}"
        shutil.copytree(tiny, folder)
        change(folder)
        weak(warm.run(train_arguments(folder, quotes, tmp_path / "never"), cwd=tmp_path))
        assert not (tmp_path / "never").exists()
    return len(changes)


def header(values: object) -> bytes:
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    return struct.pack("<Q", len(text)) + text


def _headers() -> dict[str, bytes]:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    return {
        "a length of 2^63": struct.pack("<Q", 2**63) + b"{}",
        "a length of 99 MB": struct.pack("<Q", 99_000_000) + b" " * 1000,
        "90 MB of header": header(b'{"a":' + b'"' + b"x" * 90_000_000 + b'"}'),
        "a million tensors": header(
            {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(1_000_000)}
        ),
        "1e5 deep": header(deep),
        "a shape of 1e18": header({"a": {**entry, "shape": [10**9, 10**9]}}) + b"\0" * 4,
        "negative offsets": header({"a": {**entry, "data_offsets": [-4, 0]}}),
        "offsets beyond the end": header({"a": {**entry, "data_offsets": [0, 4 * 10**15], "shape": [10**15]}})
        + b"\0" * 4,
        "overlap": header({"a": entry, "b": entry}) + b"\0" * 4,
        "unknown dtype": header({"a": {**entry, "dtype": "NaN"}}) + b"\0" * 4,
        "no object": header([1, 2, 3]),
        "not JSON": header(b"\xff" * 100),
        "empty": b"",
    }


def _bombs(warm: Warm, tiny: Path, quotes: Path, run: Path, tmp_path: Path, every: int) -> tuple[int, float]:
    count, largest = 0, 0.0

    def refused(what: str, arguments: list, code: int = 4) -> None:
        nonlocal count, largest
        log = tmp_path / "peak"
        child = warm.run(arguments, cwd=tmp_path, before=("report_peak", {"log": str(log)}), seconds=60)
        weak(child, code)
        count, largest = count + 1, max(largest, int(log.read_text()) / 2**20)
        assert not (tmp_path / "never").exists(), what

    for what, data in list(_headers().items())[::every]:
        adapter, base = tmp_path / f"a-{count}", tmp_path / f"b-{count}"
        shutil.copytree(run / "adapter", adapter)
        shutil.copytree(tiny, base)
        (adapter / "florilegium.json").unlink()
        (adapter / "adapter_model.safetensors").write_bytes(data)
        (base / "model.safetensors").write_bytes(data)
        refused(what, ["generate", "--run", adapter, "--model", tiny])
        refused(what, train_arguments(base, quotes, tmp_path / "never"))
        shutil.rmtree(adapter)
        shutil.rmtree(base)
    for what, name, values in _numbers()[::every]:
        in_adapter = name in ("adapter_config.json", "florilegium.json")
        folder = tmp_path / f"n-{count}"
        shutil.copytree(run / "adapter" if in_adapter else tiny, folder)
        good = json.loads((folder / name).read_text())
        if name == "adapter_config.json":
            (folder / "florilegium.json").unlink()
        (folder / name).write_text(values if isinstance(values, str) else json.dumps({**good, **values}))
        model = ["--model", tiny] if name == "adapter_config.json" else []
        refused(
            what,
            ["generate", "--run", folder, *model]
            if in_adapter
            else train_arguments(folder, quotes, tmp_path / "never"),
        )
        shutil.rmtree(folder)
    assert largest < 150, largest
    return count, largest


def _numbers() -> list[tuple[str, str, dict | str]]:
    deep = "[" * 100_000 + "]" * 100_000
    far = {"base": {"name": "../../../etc/x"}}
    return [
        ("rank 1e9", "adapter_config.json", {"r": 10**9}),
        ("rank 65536", "adapter_config.json", {"r": 65536}),
        ("rank -1", "adapter_config.json", {"r": -1}),
        ("rank 1e400", "adapter_config.json", '{"peft_type": "LORA", "r": 1e400, "lora_alpha": 1}'),
        ("rank of text", "adapter_config.json", {"r": "16"}),
        ("rank pattern", "adapter_config.json", {"rank_pattern": {"query_key_value": 10**9}}),
        ("a pattern that never ends", "adapter_config.json", {"rank_pattern": {"((a+)+)+$": 16}}),
        ("layers repeated", "adapter_config.json", {"layer_replication": [[0, 10**9]]}),
        ("another kind", "adapter_config.json", {"peft_type": "PROMPT_TUNING"}),
        ("modules elsewhere", "adapter_config.json", {"target_modules": ["../../x"]}),
        ("deep adapter config", "adapter_config.json", deep),
        ("deep facts", "florilegium.json", deep),
        ("facts of another kind", "florilegium.json", {"base": ["a"]}),
        ("bits of text", "florilegium.json", {"bits": "eight"}),
        ("openings of text", "florilegium.json", {"openings": {"a": "x"}}),
        ("columns of numbers", "florilegium.json", {"list_columns": [7]}),
        ("a template that looks into us", "florilegium.json", {"template": "{quote.__class__}"}),
        ("template of numbers", "florilegium.json", {"template": 7}),
        ("a base elsewhere", "florilegium.json", far),
        ("a base with NUL", "florilegium.json", {"base": {"name": "a\0b"}}),
        ("1e9 layers", "config.json", {"n_layer": 10**9}),
        ("1e9 wide", "config.json", {"hidden_size": 10**9}),
        ("1e12 words", "config.json", {"vocab_size": 10**12}),
        ("0 heads", "config.json", {"n_head": 0}),
        ("-1 layers", "config.json", {"n_layer": -1}),
        ("layers of text", "config.json", {"n_layer": "two"}),
        ("deep config", "config.json", deep),
        ("deep tokenizer", "tokenizer.json", deep),
        ("deep tokenizer config", "tokenizer_config.json", deep),
        ("5 MB of config", "config.json", " " * 5_000_000 + "{}"),
    ]


def listing(folder: Path) -> dict[Path, bytes | str]:
    return {p: os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else "" for p in folder.rglob("*")}


def test_names_lead_nowhere(
    warm: Warm,
    tiny: Path,
    quotes: Path,
    reference: Callable[..., Path],
    tmp_path: Path,
    figure: Callable[[str, str], None],
) -> None:
    """All that is outside of the run's own folder is compared before and after."""
    outside = tmp_path / "outside"
    (outside / "checkpoints" / "step-00000001").mkdir(parents=True)
    (outside / "precious.txt").write_text("precious")
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(reference(), home / "done")
    (home / "file").write_text("x")
    (home / "link").symlink_to(outside)
    (home / "loop").symlink_to("loop")
    (home / "dangling").symlink_to(tmp_path / "made-by-a-link")
    before, cases = listing(tmp_path), 0
    for output in (
        "a\0b",
        "",
        "x" * 5000,
        "file",
        "file/below",
        "link",
        "loop",
        "dangling",
        "done",
        "done/adapter",
        "/proc/x",
        "loop/x",
    ):
        child = warm.run(train_arguments(tiny, quotes, output), cwd=home)
        assert child.code in (2, 5), (output[:20], child.code, child.err[-500:])
        weak(child, child.code)
        cases += 1
    for name in (
        "a\0b",
        "../../../../etc",
        "x" * 5000,
        "loop",
        "..",
        "/etc",
        "~nobody-here",
        "$(touch x)",
        "-",
        "done/../../outside",
    ):
        for command in ("generate", "resume"):
            arguments = [command, "--run", name] if command == "generate" else [command, name]
            child = warm.run(arguments, cwd=home)
            assert child.code in (2, 4), (name[:20], child.err[-500:])  # no name at all, or nothing of that name
            weak(child, child.code)
            cases += 1
    for name in ("a\0b", "../outside", "loop", "x" * 5000, "file", "https://user:secret@huggingface.co/a/b"):
        child = warm.run(train_arguments(Path(name), quotes, "never"), cwd=home)
        assert child.code in (2, 4)
        weak(child, child.code)
        cases += 1
    assert listing(tmp_path) == before
    cases += _links_in_a_run(warm, reference(), tmp_path, outside)
    figure("names", f"{cases} names and links: 0 files outside the run touched, 0 overwritten, one line each")


def _links_in_a_run(warm: Warm, run: Path, tmp_path: Path, outside: Path) -> int:
    """A run that somebody else made, whose entries are links to places of yours."""
    names = (
        "checkpoints",
        "metrics.jsonl",
        "samples.jsonl",
        "events.jsonl",
        "config.yaml",
        "manifest.json",
        "adapter",
        ".lock",
    )
    before = listing(outside)
    for name in names:
        folder = tmp_path / f"linked-{name}"
        shutil.copytree(run, folder)
        shutil.rmtree(folder / "adapter")
        entry = folder / name
        if entry.is_dir():
            shutil.rmtree(entry)
        entry.unlink(missing_ok=True)
        entry.symlink_to(outside / ("checkpoints" if name in ("checkpoints", "adapter") else "precious.txt"))
        child = warm.run(["resume", folder], cwd=tmp_path)
        assert child.code in (2, 4, 5) and "Traceback" not in child.err, (name, child.err)
        assert listing(outside) == before, name
    return len(names)


def test_the_pickle_bomb_is_one(tmp_path: Path) -> None:
    """So that the tests above mean something: opened, it does leave its mark."""
    pickle.loads(pickled(tmp_path / "mark"))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("rank", [10**9, 5000])
def test_a_rank_beyond_the_model_is_told_before_training(
    warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, rank: int
) -> None:
    child = warm.run(train_arguments(tiny, quotes, tmp_path / "run", "--rank", str(rank)), cwd=tmp_path)
    weak(child, 2)
    assert "--lora-rank" in child.last_line


def test_adapters_are_what_they_were(reference: Callable[..., Path]) -> None:
    assert all(
        bool(t.isfinite().all()) for t in load_file(reference() / "adapter" / "adapter_model.safetensors").values()
    )
