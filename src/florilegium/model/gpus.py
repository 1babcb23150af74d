"""Cards by name: what `--gpu H100` or `--gpu 24` stands for.

Memory and rates are those of NVIDIA's data sheets: dense bfloat16 products with float32 sums (float16 on cards before
Ampere), without sparsity. A card that is here can be measured; these are for one that is not here yet."""

from __future__ import annotations

import re
from dataclasses import dataclass

from florilegium.errors import UsageError

GIB = 2**30
DRIVER = 0.5 * GIB  # the CUDA context and its libraries, which torch does not count
PCIE = {
    7: 15.8,
    8: 31.5,
    9: 63.0,
    10: 63.0,
    12: 63.0,
}  # GB/s of 16 lanes each way, by compute capability: 3.0, 4.0, 5.0
USABLE = 0.92  # of what is free: the share that a run plans with (`runs/plan.py`)


@dataclass(frozen=True)
class Gpu:
    """A card. `memory` in bytes as the driver shows it, `tflops` of dense 16-bit products, `bandwidth` of its memory and
    `link` from main memory in GB/s; None where only the memory is known. `capability` is CUDA's compute capability."""

    name: str
    memory: int
    tflops: float | None = None
    bandwidth: float | None = None
    capability: tuple[int, int] | None = None
    link: float | None = None

    @property
    def budget(self) -> int:
        """What a run may take of it, in bytes."""
        return int((self.memory - DRIVER) * USABLE)

    def budget_within(self, limit: float | None) -> int:
        """The same under a `--gpu-memory-limit` in GiB, which reaches no further than what the card has."""
        return int(min(limit * GIB, self.memory - DRIVER)) if limit else self.budget

    @property
    def gigabytes(self) -> str:
        return f"{self.memory / GIB:.0f}"

    @property
    def is_hopper(self) -> bool:
        return self.capability is not None and self.capability[0] == 9


def _card(
    name: str, gib: float, tflops: float, bandwidth: float, capability: tuple[int, int], link: float | None = None
) -> Gpu:
    """The link is PCI Express with 16 lanes, of the generation that the architecture has, unless another is given."""
    return Gpu(name, int(gib * GIB), tflops, bandwidth, capability, link or PCIE[capability[0]])


CARDS = (
    _card("T4", 15.0, 65, 320, (7, 5)),
    _card("V100", 15.8, 125, 900, (7, 0)),
    _card("V100-32GB", 31.7, 125, 900, (7, 0)),
    _card("RTX 2080 Ti", 11.0, 54, 616, (7, 5)),
    _card("RTX 3060", 12.0, 25, 360, (8, 6)),
    _card("RTX 3080", 10.0, 60, 760, (8, 6)),
    _card("RTX 3090", 24.0, 71, 936, (8, 6)),
    _card("RTX 4060", 8.0, 30, 272, (8, 9), PCIE[8] / 2),
    _card("RTX 4060 Ti", 16.0, 44, 288, (8, 9), PCIE[8] / 2),
    _card("RTX 4070", 12.0, 58, 504, (8, 9)),
    _card("RTX 4080", 16.0, 97, 717, (8, 9)),
    _card("RTX 4090", 24.0, 165, 1008, (8, 9)),
    _card("RTX 5070", 12.0, 62, 672, (12, 0)),
    _card("RTX 5070 Ti", 15.9, 88, 896, (12, 0)),
    _card("RTX 5080", 15.9, 113, 960, (12, 0)),
    _card("RTX 5090", 31.8, 209, 1792, (12, 0)),
    _card("A10", 22.5, 125, 600, (8, 6)),
    _card("A10G", 22.5, 70, 600, (8, 6)),
    _card("L4", 22.5, 121, 300, (8, 9)),
    _card("A30", 24.0, 165, 933, (8, 0)),
    _card("A40", 45.0, 150, 696, (8, 6)),
    _card("A6000", 47.5, 155, 768, (8, 6)),
    _card("L40S", 44.5, 362, 864, (8, 9)),
    _card("L40", 44.5, 181, 864, (8, 9)),
    _card("RTX 6000 Ada", 47.5, 364, 960, (8, 9)),
    _card("A100-40GB", 39.5, 312, 1555, (8, 0)),
    _card("A100", 79.2, 312, 2039, (8, 0)),
    _card("H100", 79.2, 989, 3350, (9, 0)),
    _card("H100 PCIe", 79.2, 756, 2039, (9, 0)),
    _card("H100 NVL", 93.1, 835, 3938, (9, 0)),
    _card("GH200", 94.5, 989, 4000, (9, 0)),  # its NVLink to main memory is faster than PCI Express; nobody measured it
    _card("H200", 139.8, 989, 4800, (9, 0)),
    _card("H200 NVL", 139.8, 836, 4800, (9, 0)),
    _card("B200", 178.0, 2250, 8000, (10, 0)),
)


def find_gpu(request: str) -> Gpu:
    """The card for `24`, `24GB`, `H100` or `rtx4090`. Raises UsageError for a name that is not known."""
    number = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*(?:g|gb|gib)?", request.strip().lower())
    if number:
        gib = float(number[1])
        if gib < 1:
            raise UsageError(f"--gpu {request}: a card has 1 GB or more", "Give its memory, e.g. --gpu 24")
        return Gpu(f"a GPU of {gib:g} GB", int(gib * GIB))
    name, gib = _name_and_memory(request)
    for card in CARDS:
        if _letters(request) == _letters(card.name) or (_letters(name) == _letters(card.name) and _has(card, gib)):
            return card
    known = ", ".join(card.name for card in CARDS)
    raise UsageError(f"--gpu {request}: this card is not known here", f"Known: {known}; or its memory, e.g. --gpu 24")


def _name_and_memory(request: str) -> tuple[str, int]:
    """`A100-80GB` is A100 and 80: as a card is sold, which is a little more than its driver shows. 0: not said."""
    found = re.fullmatch(r"(.+?)[\s_-]*?(?<![0-9])(\d{1,3})\s*(?:g|gb|gib)", request.strip().lower())
    return (found[1], int(found[2])) if found else (request, 0)


def _has(card: Gpu, gib: int) -> bool:
    return not gib or abs(card.memory / GIB / gib - 1) < 0.1


def smallest_card(needed: int, capability: tuple[int, int] = (0, 0)) -> Gpu | None:
    """The card with the least memory on which a run may take `needed` bytes."""
    cards = [card for card in CARDS if card.budget >= needed and (card.capability or (0, 0)) >= capability]
    return min(cards, key=lambda card: card.memory, default=None)


def find_by_device_name(name: str) -> Gpu | None:
    """The card that CUDA calls `name`, e.g. "NVIDIA H100 80GB HBM3"; None where it is not in the list. A digit more makes
    it another one: an L40 is no L4."""
    low = name.lower()
    _, gib = _name_and_memory(low.split(" hbm")[0])

    def stem(card: Gpu) -> str:
        return card.name.split("-")[0].lower()

    found = [card for card in CARDS if re.search(stem(card).replace(" ", r"\s*") + r"(?!\d)", low)]
    return max(found, key=lambda card: (len(stem(card)), gib > 0 and _has(card, gib)), default=None)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]|nvidia|geforce|tesla|rtx", "", name.lower())
