"""Layers of other families: Transformers' own modules call one another, and what costs most in them is ours.

    lora_linear.py          a frozen linear with LoRA, forward and backward
    document_attention.py   attention inside the documents of a packed row
    rms_norm.py             RMSNorm as one function
    gated_mlp.py            SwiGLU and GeGLU as one function
    parts.py                what computes them: `kernel_parts.py` on a GPU, `cpu_parts.py` on a CPU
    packed_rows.py          what they all read of the batch
    fused_layers.py         puts them in place, tries them, and runs the model

Nothing is assumed of a family but what its modules show; what is not recognised stays Transformers'."""
