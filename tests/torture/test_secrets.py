"""A canary in the place of a token, and one in the place of a name: neither is found in anything that a run prints or
leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from florilegium.errors import redact
from tests.warm import Child, Warm

TOKEN = "hf_CanaryCanaryCanaryCanary12345"
OTHER = "another-canary-0123456789"
USER = "canary-of-a-user"


def found(folder: Path, *canaries: str) -> list[str]:
    """Files below `folder`, and names of files, that hold a canary."""
    hits = []
    for path in folder.rglob("*"):
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        hits += [f"{path}: {c}" for c in canaries if c.encode() in data or c in str(path.relative_to(folder))]
    return hits


def names_its_base_alone(hit: str, base: Path, *canaries: str) -> bool:
    """adapter_config.json says where the base lies, or stock PEFT could not load it here (`push` takes that out);
    nothing else in it may say whose machine this is."""
    path = Path(hit.rsplit(": ", 1)[0])
    if path.name != "adapter_config.json":
        return False
    values = json.loads(path.read_text())
    return values.pop("base_model_name_or_path") == str(base) and not any(c in json.dumps(values) for c in canaries)


def test_canaries(warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    home = tmp_path / USER
    shutil.copytree(tiny, home / "models" / "tiny")
    shutil.copy(quotes, home / "quotes.jsonl")
    work = home / "work"
    work.mkdir()
    env = {
        "HOME": str(home),
        "USER": USER,
        "LOGNAME": USER,
        "HF_TOKEN": TOKEN,
        "WANDB_API_KEY": OTHER,
        "MY_SECRET": OTHER,
    }
    said: list[Child] = []

    def run(*arguments: str | Path, code: int) -> Child:
        child = warm.run(arguments, cwd=work, env=env)
        assert child.code == code, (arguments, child.code, child.err[-600:])
        said.append(child)
        return child

    settings = [
        "--model",
        home / "models" / "tiny",
        "--max-steps",
        "4",
        "--save-every",
        "2",
        "--bits",
        "32",
        "--batch-rows",
        "8",
    ]
    run("train", home / "quotes.jsonl", *settings, "--output", "mine", code=0)
    run("generate", "--run", "mine", "-n", "1", "--max-new-tokens", "3", "--json", code=0)
    shutil.rmtree(work / "mine" / "adapter")
    run("resume", "mine", code=0)
    run("train", home / "quotes.jsonl", *settings, code=0)  # the folder's name is made of date, rows and model
    left = found(work, TOKEN, OTHER, USER, str(home))
    left = [hit for hit in left if not names_its_base_alone(hit, home / "models" / "tiny", USER, str(home))]
    words = "".join(child.out + child.err for child in said)
    left += [f"printed: {canary}" for canary in (TOKEN, OTHER, USER, str(home)) if canary in words]
    said.clear()
    # Mistakes with a token in them: the command line, the config file, an address; with and without the traceback.
    (work / "bad.yaml").write_text(f"hf_token: {TOKEN}\n")
    (work / "worse.yaml").write_text(f"report_to: {TOKEN}\nmodel: {OTHER}\n")
    (work / "broken.yaml").write_text(f"model: [{TOKEN}\n")
    address = f"https://{USER}:{OTHER}@huggingface.co/a/b"
    for arguments, code in [
        (["train", "--token", TOKEN], 2), (["train", f"--hf-token={TOKEN}"], 2), (["train", f"--hub_token={OTHER}"], 2),
        (["train", "--config", "bad.yaml"], 2), (["train", "--config", "worse.yaml"], 2), (["train", "--config", "broken.yaml"], 2),
        (["train", "--model", address], 4), (["train", address], 3), (["train", "--model", f"a/{TOKEN}"], 4), (["train", f"a/{TOKEN}"], 3),
        (["train", "--bits", TOKEN], 2), (["train", "--report-to", OTHER], 2), (["train", "--template", f"{{{TOKEN}}}"], 3),
        (["generate", "--run", TOKEN], 4), (["resume", OTHER], 4), (["generate", "--prompts", TOKEN], 2), ([TOKEN], 2),
    ]:  # fmt: skip
        run(*arguments, code=code)
        if "train" in arguments:
            child = warm.run([*arguments, "--debug"], cwd=work, env=env)
            assert child.code == code and "Traceback" in child.err
            said.append(child)
    words = "".join(child.out + child.err for child in said)
    left += [f"printed: {canary}" for canary in (TOKEN, OTHER) if canary in words]
    left += [hit for hit in found(work, TOKEN, OTHER) if ".yaml" not in hit]
    assert not left, left
    figure(
        "secrets",
        f"a token in 3 variables, {len(said)} command lines, 3 config files, tracebacks: found 0 times; home and user name 0",
    )


def test_redact() -> None:
    assert redact(f"a {TOKEN}, b") == "a ***, b"
    assert redact("https://me:word@host/x and https://host/x") == "https://***@host/x and https://host/x"
    assert redact("hf_ and half_way are words") == "hf_ and half_way are words"


USUAL = (
    "GITHUB_PAT",
    "DB_PASSWD",
    "DB_PASSWORD",
    "AWS_CREDENTIALS",
    "OPENAI_API_KEY",
    "APP_SECRET",
    "HF_TOKEN",
    "KEY_PASSPHRASE",
)


@pytest.mark.parametrize("name", USUAL)
def test_the_usual_names_of_secrets_are_known(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "swordfish-9")
    monkeypatch.setenv("SOME_PATH", "/usr/lib/swordfish")
    assert redact("it is swordfish-9, in /usr/lib/swordfish") == "it is ***, in /usr/lib/swordfish"


def test_an_adapter_that_is_read_first_fetches_no_kernels(tiny: Path, tmp_path: Path) -> None:
    """`export` reads it before any base, and PEFT imports bitsandbytes, which asks `kernels` for code from the Hub."""
    from tests.export.adapters import save_adapter

    save_adapter(tiny, tmp_path / "adapter")
    (tmp_path / "packages" / "kernels").mkdir(parents=True)
    (tmp_path / "packages" / "kernels" / "__init__.py").write_text(
        "__version__ = '0.11.1'\ndef get_kernel(*given, **named):\n    raise SystemExit('a kernel was fetched')\n"
    )
    code = (
        "import sys, pathlib; from florilegium.model.adapter_config import lora_values;"
        "lora_values(pathlib.Path(sys.argv[1]), 32); print('bitsandbytes' in sys.modules)"
    )
    path = os.pathsep.join([str(tmp_path / "packages"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "adapter")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.split() == ["True"], done.stderr
    assert "kernel" not in done.stderr


def test_the_library_sends_nothing_and_fetches_no_kernels() -> None:
    """As a library too, where no command line sets it: before Transformers or huggingface_hub are imported."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_DISABLE_TELEMETRY", "USE_HUB_KERNELS")}
    code = (
        "import florilegium; florilegium.load_base; import huggingface_hub.constants as c;"
        "from transformers.integrations import hub_kernels as k; print(c.HF_HUB_DISABLE_TELEMETRY, k._kernels_enabled)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr
