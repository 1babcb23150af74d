"""The base model, the adapter on it, and the forward pass over packed rows."""

from florilegium.model.adapter_facts import AdapterFacts, openings_of, read_facts, template_of
from florilegium.model.adapter_loading import load_adapter
from florilegium.model.base import Base, choose_compute_dtype, choose_device, load_base
from florilegium.model.identity import base_facts
from florilegium.model.loaded import ForwardOptions, LoadedModel
from florilegium.model.lora import (
    ParameterCount,
    adapter_state,
    adapter_tensors,
    attach_adapter,
    count_parameters,
    save_adapter,
    set_adapter_state,
)
from florilegium.model.packed_forward import hidden_states, residual_dtype, stage_output, token_losses
from florilegium.model.rehearsal import check_bits, rehearse_adapter, rehearse_training
from florilegium.model.row_dropout import rows_drawn
from florilegium.model.stage import Stage
from florilegium.model.weight_files import LoadProgress

__all__ = [
    "AdapterFacts",
    "Base",
    "ForwardOptions",
    "LoadProgress",
    "LoadedModel",
    "ParameterCount",
    "Stage",
    "adapter_state",
    "adapter_tensors",
    "attach_adapter",
    "base_facts",
    "check_bits",
    "choose_compute_dtype",
    "choose_device",
    "count_parameters",
    "hidden_states",
    "load_adapter",
    "load_base",
    "openings_of",
    "read_facts",
    "rehearse_adapter",
    "rehearse_training",
    "residual_dtype",
    "rows_drawn",
    "save_adapter",
    "set_adapter_state",
    "stage_output",
    "template_of",
    "token_losses",
]
