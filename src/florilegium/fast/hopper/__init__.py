"""Matrix products on Hopper GPUs that read int8 weights as they are stored: CUDA C++, compiled when first needed."""
