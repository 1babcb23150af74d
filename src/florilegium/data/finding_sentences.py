"""What the data doctor found, in sentences for people: how many rows, where, and what to type."""

from __future__ import annotations

from collections.abc import Sequence

from florilegium.data.data_report import Findings, Found, TagFindings
from florilegium.errors import counted
from florilegium.storage.paths import quoted

DIRT_ADVICE = {
    "html": "--fix-encoding takes it out",
    "escapes": "escaped twice; --fix-encoding takes them out",
    "control_characters": "--fix-encoding takes them out",
    "printed_lists": "a list was written as text",
    "repeated_header": "the names of the columns again: remove these rows",
}


def finding_sentences(findings: Findings) -> list[tuple[str, str]]:
    """What `examine` found that is not nothing, for people: the finding's name and a sentence with examples or
    places."""
    near, repair = findings.near_duplicates, findings.repair
    lines = [
        (
            "near duplicates",
            f"{counted(near.pairs, 'pair')} in {counted(near.clusters, 'cluster')}, {counted(near.rows, 'row')}",
        )
    ]
    if repair.mended or repair.can_be_mended:
        what = (
            f"{counted(repair.mended, 'row')} repaired"
            if repair.mended
            else f"--fix-encoding would repair {counted(repair.can_be_mended, 'row')}"
        )
        example = repair.example
        shown = f": {shortened(example.before, 40)} -> {shortened(example.after, 40)}" if example else ""
        lines.append(
            ("broken encoding", f"{what}, {counted(repair.still_broken_then, 'row')} cannot be repaired{shown}")
        )
    for name, advice in DIRT_ADVICE.items():
        found = findings.dirt.get(name)  # runs of earlier versions have none
        if found and found.rows:
            lines.append((name.replace("_", " "), f"{counted(found.rows, 'row')}: {_places(found)}; {advice}"))
    if findings.suspicious_tags:
        lines += _about_tags(findings.suspicious_tags)
    for name, sign in findings.authors.signs.items() if findings.authors else ():
        if sign.rows:
            lines.append((f"authors: {name.replace('_', ' ')}", _sentence(sign.rows, "row", sign.places)))
    outliers = (
        ("unusually long", "words", findings.long_outliers),
        ("unusually many tags", "tags", findings.tag_outliers),
    )
    for title, unit, beyond in outliers:
        if beyond and beyond.rows:
            lines.append((title, f"{counted(beyond.rows, 'row')} over {beyond.limit} {unit}: {_places(beyond)}"))
    if findings.no_text.rows:
        letterless = findings.no_text
        lines.append(("no text", f"{counted(letterless.rows, 'row')} without a letter: {_places(letterless)}"))
    return lines


def _about_tags(found: TagFindings) -> list[tuple[str, str]]:
    lines = []
    glued = found.several_in_one
    if glued and glued.rows:
        sign = str(glued.separator)
        typed = quoted(sign) if sign in '\\"$`' else f'"{sign}"'
        advice = f"if '{sign}' separates tags: --tags-separator {typed}"
        lines.append(("tags: several in one", f"{counted(glued.rows, 'row')}: {glued.examples[0]}; {advice}"))
    for name, suspects in found.signs.items():
        if suspects.rows:
            sentence = _sentence(suspects.rows, "row", suspects.examples or suspects.places)
            sentence += "; --fix-encoding takes them out" if name == "words_for_nothing" else ""
            lines.append((f"tags: {name.replace('_', ' ')}", sentence))
    spellings = found.several_spellings
    if spellings.tags:
        examples = [" / ".join(words) for words in spellings.examples]
        lines.append(("tags: several spellings", _sentence(spellings.tags, "tag", examples)))
    return lines


def _sentence(count: int, unit: str, examples: Sequence[str]) -> str:
    return f"{counted(count, unit)}: {shortened(', '.join(examples[:4]), 90)}"


def _places(found: Found) -> str:
    return shortened(", ".join(found.places[:4]), 90)


def shortened(text: str, width: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
