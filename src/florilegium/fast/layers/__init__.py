"""Layers of other families on a GPU: Transformers' own modules call one another, and what costs most in them is ours.

    lora_linear.py          a frozen linear with LoRA, forward and backward
    document_attention.py   attention inside the documents of a packed row
    rms_norm.py             RMSNorm in one kernel
    gated_mlp.py            SwiGLU and GeGLU in one kernel (`gated_kernel.py`)
    packed_rows.py          what they all read of the batch
    fused_layers.py         puts them in place, tries them, and runs the model

Nothing is assumed of a family but what its modules show; what is not recognised stays Transformers'."""
