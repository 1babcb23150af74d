"""The page's lists: what a run cost, and what it takes to do it again."""

from __future__ import annotations

from florilegium.evaluation.table import lookup
from florilegium.report.run_reader import RunRecord


def cost(facts: RunRecord) -> list[tuple[str, str]]:
    m = facts.manifest
    forecast = m.get("forecast_bytes")
    trained, total = m.get("trained_parameters"), m.get("total_parameters")
    share = ""
    if isinstance(trained, int) and isinstance(total, int) and total:
        share = f"{trained:,} of {total:,} ({100 * trained / total:.3f}%)"
    lines = [
        ("time", duration(m.get("elapsed_seconds"))),
        ("tokens", number(m.get("tokens"), ",.0f")),
        ("tokens/s", number(m.get("tokens_per_second"), ",.0f")),
        ("peak memory", gibibytes(m.get("peak_memory_bytes"))),
        ("predicted memory", gibibytes(forecast)),
        ("device", str(m.get("device", ""))),
        ("parameters trained", share),
    ]
    return [line for line in lines if line[1]]


def reproduce(facts: RunRecord) -> list[tuple[str, str]]:
    m = facts.manifest
    libraries = m.get("libraries")
    known = ", ".join(f"{name} {version}" for name, version in libraries.items()) if isinstance(libraries, dict) else ""
    lines = [
        ("florilegium", str(m.get("version", ""))),
        ("python", str(m.get("python", ""))),
        ("libraries", known),
        ("seed", str(m.get("seed", ""))),
    ]
    return [line for line in lines if line[1]]


def digests(facts: RunRecord) -> list[tuple[str, str]]:
    names = {"data": "data.digest", "base": "base.digest", "tokenizer": "base.tokenizer_digest"}
    lines = [(f"{name}, sha256", str(lookup(facts.manifest, path) or "")) for name, path in names.items()]
    return [line for line in lines if line[1]]


def number(value: object, style: str) -> str:
    return f"{value:{style}}" if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def gibibytes(value: object) -> str:
    return f"{value / 2**30:.2f} GiB" if isinstance(value, (int, float)) else ""


def duration(value: object) -> str:
    if not isinstance(value, (int, float)):
        return ""
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
