"""`florilegium push` against the Hub's API on loopback, with huggingface_hub's real client: what arrives, what goes wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from florilegium.cli.main import main
from florilegium.errors import UsageError
from florilegium.export.hub import check_repo
from florilegium.export.origin import RAIL, origin_of
from florilegium.runs.push import pack
from tests.export.fake_hub import TOKEN, FakeHub, fake_hub

REPO = "someone/quotes"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    import huggingface_hub.constants as constants
    from huggingface_hub.utils import close_session

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files by LFS, whose store is simple
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client's waits, and ours, between tries
    with fake_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        close_session()
        yield running
        close_session()


def push(*arguments: str | Path) -> int:
    return main(["push", *map(str, arguments)])


def test_an_adapter_arrives_without_this_machine(
    tiny_run: Path, tiny: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(tiny_run, REPO, "--private") == 0
    out = capsys.readouterr()
    files = hub.repos[REPO]
    assert hub.private[REPO] and out.out.strip().endswith(f"{hub.address}/{REPO}")
    assert files["adapter_model.safetensors"] == (tiny_run / "adapter" / "adapter_model.safetensors").read_bytes()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == tiny.name
    for name, data in files.items():
        for secret in (TOKEN, str(tiny_run), str(tiny.parent), str(Path.home()) + "/"):
            assert secret.encode() not in data, name
    assert TOKEN not in out.out + out.err
    card = files["README.md"].decode()
    values = yaml.safe_load(card.split("---\n")[1])
    assert values["library_name"] == "peft" and "base_model" not in values and len(values["widget"]) == 2
    assert f'PeftModel.from_pretrained(base, "{REPO}")' in card


def test_the_card_of_an_adapter_has_commands_that_work_where_it_is_read(tiny_run: Path) -> None:
    """`generate` and `export` ask no Hub: the repository is fetched first, into the folder that they name."""
    lines = pack(tiny_run, REPO).card.splitlines()
    ours = [i for i, line in enumerate(lines) if line.startswith("florilegium ")]
    folder = REPO.split("/")[1]
    assert len(ours) == 3 and not [lines[i] for i in ours if REPO in lines[i]]
    assert all(folder in lines[i].split() for i in ours)
    for first in (min(i for i in ours if f"florilegium {name} " in lines[i]) for name in ("generate", "export")):
        assert lines[first - 1] == f"hf download {REPO} --local-dir {folder}"


def test_what_arrived_is_an_adapter_again(tiny_run: Path, tiny: Path, hub: FakeHub, tmp_path: Path) -> None:
    assert push(tiny_run, REPO) == 0
    for name, data in hub.repos[REPO].items():
        (tmp_path / name).write_bytes(data)
    assert main(["generate", "--run", str(tmp_path), "--model", str(tiny), "-n", "1", "--max-new-tokens", "3"]) == 0


def test_an_export_arrives_as_it_was_checked(tiny_run: Path, hub: FakeHub, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    assert main(["export", str(tiny_run), "--output", str(out)]) == 0
    assert push(out, REPO) == 0
    files = hub.repos[REPO]
    assert files.keys() == {p.name for p in out.iterdir()}
    assert files["model.safetensors"] == (out / "model.safetensors").read_bytes()
    assert f'from_pretrained("{REPO}")' in files["README.md"].decode() and b"FOLDER_OF" not in files["README.md"]
    (out / "model.safetensors").write_bytes(b"x" + (out / "model.safetensors").read_bytes()[1:])
    asked = len(hub.asked)
    assert push(out, "someone/other") == 4 and len(hub.asked) == asked


def test_an_export_of_a_newer_version_is_left_alone(
    tiny_run: Path, hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    assert main(["export", str(tiny_run), "--output", str(out)]) == 0
    facts = json.loads((out / "export.json").read_text())
    (out / "export.json").write_text(json.dumps({**facts, "format": 99}))
    assert push(out, REPO) == 4 and not hub.asked
    assert (
        "format 99, and this version reads 1: a newer florilegium wrote it. Update florilegium"
        in capsys.readouterr().err
    )


def test_dry_run_sends_nothing(
    tiny_run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert push(tiny_run, REPO, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "adapter_model.safetensors" in said and "Nothing was sent" in said and "# LoRA adapter on" in said
    assert push(tiny_run, REPO, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sent"] is False
    assert hub.asked == []


def test_without_a_token(
    tiny_run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert push(tiny_run, REPO) == 2
    assert "no Hugging Face token" in capsys.readouterr().err and hub.asked == []


@pytest.mark.parametrize("route", ["create", "preupload", "batch", "put", "commit", "tree"])
@pytest.mark.parametrize("trouble", [503, "cut"])
def test_passing_trouble_is_tried_again(tiny_run: Path, hub: FakeHub, route: str, trouble: int | str) -> None:
    hub.trouble = {route: [trouble]}
    assert push(tiny_run, REPO) == 0
    assert hub.trouble[route] == [] and "adapter_model.safetensors" in hub.repos[REPO]


@pytest.mark.parametrize(
    ("route", "status", "said"),
    [
        ("create", 401, "not valid"),
        ("create", 403, "may not write"),
        ("commit", 403, "may not write"),
        ("put", 403, "may not write"),
    ],
)
def test_refused(
    tiny_run: Path, hub: FakeHub, route: str, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.trouble = {route: [status] * 50}
    assert push(tiny_run, REPO) == 4
    err = capsys.readouterr().err
    last = err.strip().splitlines()[-1]
    assert said in last and f"HTTP {status}" in last and "Traceback" not in err and TOKEN not in err
    assert not hub.repos.get(REPO)


def test_refused_by_the_store_of_large_files(
    tiny_run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    hub.trouble = {"xet": [403] * 50}
    assert push(tiny_run, REPO) == 4
    assert "may not write" in capsys.readouterr().err and hub.repos[REPO] == {}


@pytest.mark.parametrize("trouble", [500, 409, "cut"])
def test_trouble_that_stays(
    tiny_run: Path, hub: FakeHub, trouble: int | str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.trouble = {"commit": [trouble] * 200}
    assert push(tiny_run, REPO) == 4
    said = capsys.readouterr()
    assert "could not upload" in said.err.splitlines()[-1] and "push again later" in said.err and REPO not in said.out
    assert hub.repos[REPO] == {}


def test_a_file_that_did_not_arrive_whole_is_seen(
    tiny_run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.export.fake_hub import Handler

    real = Handler.on_tree

    def shorter(self: Handler, body: bytes) -> None:
        name = "adapter_model.safetensors"
        self.hub.repos[REPO][name] = self.hub.repos[REPO][name][:-1]
        real(self, body)

    monkeypatch.setattr(Handler, "on_tree", shorter)
    assert push(tiny_run, REPO) == 4
    assert "does not hold adapter_model.safetensors as it was sent" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["quotes", "a/b/c", "a/b.git", "../x", "a/..", "/etc/passwd", "a b/c"])
def test_invalid_repo_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_repo(name)


def test_terms_of_the_base(tmp_path: Path, tiny: Path) -> None:
    assert origin_of("bigscience/bloom-560m", None).licence == RAIL
    bloom = tmp_path / "my-copy"
    shutil.copytree(tiny, bloom)
    config = json.loads((bloom / "config.json").read_text())
    (bloom / "config.json").write_text(json.dumps(config | {"hidden_size": 4096, "n_layer": 30, "vocab_size": 250880}))
    copy = origin_of(str(bloom), bloom)
    assert copy.name == "my-copy" and not copy.on_hub and copy.is_rail and "Attachment A" in copy.restrictions()
    (bloom / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert origin_of(str(bloom), bloom).licence == "apache-2.0"


def test_a_folder_that_looks_like_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "bloom").mkdir(parents=True)
    assert not origin_of("models/bloom", None).on_hub and origin_of("models/bloom", None).name == "bloom"
    assert not origin_of("models/gone", None, local=True).on_hub and origin_of("models/gone", None).on_hub
