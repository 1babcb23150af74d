"""The recipe of the seedling: from an openly licensed teacher to a small BLOOM that writes English.

Run it with `python -m tools.seedling all --work DIR --teacher FILE.gguf` on a machine with one GPU. The stages, in
order:

    prompts      a seeded grid of what to ask the teacher            prompts.jsonl
    teacher      the teacher's answers                               shards/*.jsonl
    filter       what is worth learning; held-out texts set aside    train.jsonl, heldout.jsonl
    tokenizer    byte-level BPE with BLOOM's special ids             tokenizer/
    pretrain     pack the documents, train the student               rows.npy, student.safetensors, pretrain.jsonl
    measure      bits per byte against a Kneser-Ney 5-gram, samples  measure.json, samples.txt
    export       the folder that ships                               src/florilegium/seedling/

A stage whose result exists is skipped; one that was interrupted goes on where it stopped.
"""
