"""What the data doctor found, in sentences for people: how many rows, where, and what to type."""

from __future__ import annotations

from typing import Any

from florilegium.errors import counted

DIRT_ADVICE = {
    "html": "--fix-encoding takes it out",
    "escapes": "escaped twice; --fix-encoding takes them out",
    "control_characters": "--fix-encoding takes them out",
    "printed_lists": "a list was written as text",
    "repeated_header": "the names of the columns again: remove these rows",
}


def finding_sentences(findings: dict[str, Any]) -> list[tuple[str, str]]:
    """What `examine` found that is not nothing, for people: the finding's name and a sentence with examples or
    places."""
    near, repair = findings["near_duplicates"], findings["repair"]
    lines = [
        (
            "near duplicates",
            f"{counted(near['pairs'], 'pair')} in {counted(near['clusters'], 'cluster')}, {counted(near['rows'], 'row')}",
        )
    ]
    if repair["mended"] or repair["can_be_mended"]:
        what = (
            f"{counted(repair['mended'], 'row')} repaired"
            if repair["mended"]
            else f"--fix-encoding would repair {counted(repair['can_be_mended'], 'row')}"
        )
        example = repair["example"]
        shown = f": {shortened(example['before'], 40)} -> {shortened(example['after'], 40)}" if example else ""
        lines.append(
            ("broken encoding", f"{what}, {counted(repair['still_broken_then'], 'row')} cannot be repaired{shown}")
        )
    for name, advice in DIRT_ADVICE.items():
        found = findings.get("dirt", {}).get(name, {"rows": 0})  # runs of earlier versions have none
        if found["rows"]:
            lines.append((name.replace("_", " "), f"{counted(found['rows'], 'row')}: {_places(found)}; {advice}"))
    glued = (findings["suspicious_tags"] or {}).get("several_in_one", {"rows": 0})
    if glued["rows"]:
        sign = glued["separator"]
        advice = f"if '{sign}' separates tags: --tags-separator \"{sign}\""
        lines.append(("tags: several in one", f"{counted(glued['rows'], 'row')}: {glued['examples'][0]}; {advice}"))
    for group in ("suspicious_tags", "authors"):
        for name, found in (findings[group] or {}).items():
            count = found.get("rows", found.get("tags", 0)) if isinstance(found, dict) else 0
            count = 0 if name == "several_in_one" else count  # said above, with what to type
            if count:
                examples = [
                    x if isinstance(x, str) else " / ".join(x) for x in found.get("examples", found.get("places", []))
                ]
                unit = "row" if "rows" in found else "tag"
                sentence = f"{counted(count, unit)}: {shortened(', '.join(examples[:4]), 90)}"
                sentence += "; --fix-encoding takes them out" if name == "words_for_nothing" else ""
                lines.append((f"{group.removeprefix('suspicious_')}: {name.replace('_', ' ')}", sentence))
    for name, unit in (("long_outliers", "words"), ("tag_outliers", "tags")):
        found = findings[name]
        if found and found["rows"]:
            lines.append(
                (
                    "unusually long" if unit == "words" else "unusually many tags",
                    f"{counted(found['rows'], 'row')} over {found['limit']} {unit}: {_places(found)}",
                )
            )
    if findings["no_text"]["rows"]:
        lines.append(
            (
                "no text",
                f"{counted(findings['no_text']['rows'], 'row')} without a letter: {_places(findings['no_text'])}",
            )
        )
    return lines


def _places(found: dict[str, Any]) -> str:
    return shortened(", ".join(found["places"][:4]), 90)


def shortened(text: str, width: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
