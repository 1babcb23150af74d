"""A model by its config.json alone: shapes without numbers, from which all that a run will take is known before a byte
of weights is downloaded.

    config_folder -> outline (meta device) -> PEFT's adapter on it -> counts, bytes by bits

What a linear takes once bitsandbytes has it, N outputs and K inputs:

    8 bits    N K int8 numbers and a float32 scale for each row
    4 bits    N K / 2 codes; for each 64 a scale in 8 bits, for each 256 of those one in float32, and two tables

The experts of a mixture are no linears, and stay in 16 bits; so do Falcon's linears (`products.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from florilegium.config import TrainConfig
from florilegium.model.bitsandbytes_import import before_peft
from florilegium.model.families import Family, family_of, packs
from florilegium.model.hub import DownloadSize, config_folder, download_size, read_config
from florilegium.model.load_errors import model_errors, quietly
from florilegium.model.lora import ParameterCount, count_parameters
from florilegium.model.memory_plan import ModelShape
from florilegium.model.model_config import stored_bits
from florilegium.model.products import (
    expert_parameters,
    is_linear,
    is_quantised,
    module_size,
    outputs,
    product_parameters,
)
from florilegium.model.rehearsal import wrap_for_training
from florilegium.model.transformers_loader import outline

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NF4_GROUP, NF4_SCALES = 64, 256
NF4_TABLES = 4 * (NF4_SCALES + 16) + 4  # of the scales' codes, of the codes, and the scales' mean


@dataclass(frozen=True)
class Skeleton:
    """A model with its adapter, without numbers. `product_parameters` are the frozen weights that take part in matrix
    products: a token costs 4 floating-point operations for each of them, two forward and two backward."""

    name: str
    config: PretrainedConfig
    family: Family
    count: ParameterCount
    product_parameters: int
    bytes_by_bits: Mapping[int, int]  # of the base in memory; a checkpoint that is quantised already has one entry
    adapter_on: tuple[str, ...]  # the linears that take LoRA, by the last part of their names
    download: DownloadSize
    unquantised: int = 0  # bytes of experts and linears that stay in 16 bits whatever --bits says

    def base_bytes(self, bits: int) -> int:
        return self.bytes_by_bits.get(bits, next(iter(self.bytes_by_bits.values())))

    def shape(self, bits: int, *, reads_int8: bool) -> ModelShape | None:
        """For the plan of the fused blocks; None for families that have none. `reads_int8`: whether the card multiplies
        by int8 weights as they are stored."""
        if not packs(self.family):
            return None
        block = self.family.block_sizes(self.config, self.adapter_on)
        size = self.base_bytes(bits)
        return ModelShape(size, self.num_layers, self.width, self.vocab_size, self.count.trained, block, reads_int8)

    @property
    def num_layers(self) -> int:
        return int(self.config.get_text_config().num_hidden_layers)

    @property
    def width(self) -> int:
        return int(self.config.get_text_config().hidden_size)

    @property
    def vocab_size(self) -> int:
        return int(self.config.get_text_config().vocab_size)


def read_skeleton(config: TrainConfig) -> Skeleton:
    """The model and adapter that `config` asks for. Raises ModelError for a model that is not there, UsageError for an
    adapter that does not fit it."""
    values = read_config(config_folder(config.model, config.revision), config.model)
    before_peft()
    with quietly(), model_errors(config.model):
        model = outline(values, config.model)
    family = family_of(model.config.model_type)
    stored = stored_bits(values)
    sizes = {bits: weight_bytes(model, bits) for bits in ((stored,) if stored else (8, 4, 16, 32))}
    products, unquantised = product_parameters(model), 2 * _unquantised(model)
    # what is stored in few bits is downloaded so; everything else is expected in 16
    expected = sizes[stored or 16]
    tuned = wrap_for_training(model, config)
    on = {name.rsplit(".", 1)[-1] for name, module in tuned.named_modules() if hasattr(module, "base_layer")}
    return Skeleton(
        config.model,
        model.config,
        family,
        count_parameters(tuned),
        products,
        sizes,
        tuple(sorted(on)),
        download_size(config.model, config.revision, expected),
        unquantised,
    )


def weight_bytes(model: nn.Module, bits: int) -> int:
    """What a base takes in memory in these bits. What is not quantised has 16, unless all have 32."""
    other = 4 if bits == 32 else 2
    quantized = {id(module.weight): module for module in _linears(model)} if bits in (8, 4) else {}
    total = 0
    for parameter in model.parameters():
        module = quantized.get(id(parameter))
        total += parameter.numel() * other if module is None else _quantized_bytes(module, bits)
    return total


def _quantized_bytes(module: nn.Module, bits: int) -> int:
    numbers = module_size(module)
    if bits == 8:
        return numbers + 4 * outputs(module)
    groups = -(-numbers // NF4_GROUP)
    return -(-numbers // 2) + groups + 4 * -(-groups // NF4_SCALES) + NF4_TABLES


def _linears(model: nn.Module) -> Iterator[nn.Module]:
    """The linears that are quantised: all but the head, which is the embedding again or is kept beside it."""
    head = _head(model)
    for module in model.modules():
        if is_quantised(module) and module is not head:
            yield module


def _unquantised(model: nn.Module) -> int:
    """How many numbers of experts and of linears but the head bitsandbytes leaves as they are."""
    head = _head(model)
    others = (m for m in model.modules() if is_linear(m) and not is_quantised(m) and m is not head)
    return sum(p.numel() for p in expert_parameters(model)) + sum(module_size(module) for module in others)


def _head(model: nn.Module) -> nn.Module | None:
    get = getattr(model, "get_output_embeddings", None)
    found: nn.Module | None = get() if get is not None else None
    return found
