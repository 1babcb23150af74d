"""What is installed and how: the container's file, the page that tells of it, and the package say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
INSTALL = (ROOT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")


def instructions(name: str) -> list[str]:
    """What follows `name` in the container's file."""
    return re.findall(rf"^{name} (.*)", DOCKERFILE, re.M)


def is_supported(python: str) -> bool:
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()  # type: ignore[union-attr]
    return int(low) <= int(python.removeprefix("3.")) < int(high)


def test_the_image_has_a_python_that_is_supported_and_tested() -> None:
    (python,) = [line.removeprefix("PYTHON=") for line in instructions("ARG") if line.startswith("PYTHON=")]
    assert is_supported(python) and not is_supported("3.10")
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    assert {line.split()[0] for line in instructions("FROM")} == {"python:${PYTHON}-slim-bookworm"}


def test_the_image_holds_the_package_with_extras_that_there_are() -> None:
    (install,) = [line for line in instructions("RUN") if "pip install" in line]
    extras = re.search(r'"\.\[([a-z,]+)\]"', install)
    assert extras and set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert "--constraint constraints.txt" in install
    assert instructions("ENTRYPOINT") == ['["florilegium"]'] and "florilegium" in PROJECT["scripts"]


def test_what_is_copied_is_there_and_nothing_else_is_sent_to_the_builder() -> None:
    copied = {name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert copied and all((ROOT / name).exists() for name in copied)
    needed = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "src"}
    assert needed <= copied, "the build backend reads these"
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored and {line[1:] for line in ignored if line.startswith("!")} == copied


def test_the_container_is_nobody_special_and_keeps_what_it_must() -> None:
    assert instructions("USER")[-1:] == ["florilegium"]
    (environment,) = instructions("ENV")
    assert "HF_HOME=/cache/huggingface" in environment and "TRITON_CACHE_DIR=/cache/triton" in environment
    assert instructions("VOLUME") == ["/cache"] and instructions("WORKDIR")[-1] == "/work"
    assert "gcc" in DOCKERFILE, "Triton compiles with it"


def test_the_page_names_what_there_is() -> None:
    told = re.findall(r"^\| `(\w+)` \|", INSTALL, re.M)
    assert set(told) == set(PROJECT["optional-dependencies"]) - {"dev", "docs"}
    for extras in re.findall(r'"\.\[([a-z,]+)\]"', INSTALL):
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    pythons = re.findall(r"\b3\.\d+\b", INSTALL.split("\n## ")[0])
    assert len(pythons) == 3 and all(map(is_supported, pythons))
    ports = set(re.findall(r"(\d{4}):(\d{4})", INSTALL))
    serve = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    assert ports == {("8000", "8000")} and re.search(r"`--port N`.*\(8000\)", serve)


def test_nobody_is_sent_to_an_index_where_it_is_not() -> None:
    """A package of that name there would be somebody else's: what is asked for by extras is in the clone, or installed."""
    for folder in ("src", "docs", "README.md", "Makefile", "Dockerfile"):
        place = ROOT / folder
        for path in [place] if place.is_file() else [p for p in place.rglob("*") if p.suffix in (".py", ".md")]:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"install (-U|--upgrade) ['\"]?florilegium", text), path
            assert path.suffix != ".md" or not re.search(r"pip install ['\"]?florilegium", text), path
