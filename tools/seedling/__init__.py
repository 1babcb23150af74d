"""The recipe of the seedling: from an openly licensed teacher to a small BLOOM that writes English.

Run it with `python -m tools.seedling all --work DIR --teacher FILE.gguf` on a machine with one GPU. The stages, in
order:

    prompts      a seeded grid of what to ask the teacher            prompts.txt
    teacher      its answers, and what it thinks of its sayings      shards/*.jsonl, *.npy
    readings     sayings for people to mark, once                    to_read.tsv, then readings.tsv here
    taste        what the readers kept, carried over to all sayings  shards/*.taste.npy
    candidates   sayings to choose the sample from, by reading       candidates.tsv
    filter       what is worth learning; held-out texts set aside    train.jsonl, heldout.jsonl
    tokenizer    byte-level BPE with BLOOM's special ids             tokenizer/
    pretrain     pack the documents, train the student               rows.npy, finest.npy, student/, pretrain.jsonl
    measure      bits per byte against a Kneser-Ney 5-gram, samples  measure.json, samples.txt
    general      the text that forgetting is measured with           evaluation/general.txt
    export       the folder that ships                               src/florilegium/seedling/

A stage whose result exists is skipped; one that was interrupted goes on where it stopped.

The sample is chosen by people between `candidates` and `filter`: of 5,200 candidates, read one by one, 2,426 are in it,
at most thirty with the same two first words, and `filter` keeps them from the student.

The teacher is small: of 938 of its sayings, drawn by chance and read by the rule of `bench.train.seedling`, 33.5% say
something. Its own verdict puts 71.1% of pairs in the readers' order, a probe on the state behind the verdict 81.2% (of
five-fold cross-validation); of the best fifth by the verdict readers kept 66.8%, by the probe 75.9%. `filter` goes by the
probe since then, and the student has 23 million parameters, whose rounded weights a wheel of 32 MB still holds.

The model that ships was made before that, by commit ec2d0f6: 6 layers of 384; one H200 wrote 669,000 texts in 640 s
(`teacher`, two stretches); `filter` kept 215,276 of them, 61.6 million characters; `pretrain` made five passes over them
in 39 s (the tokenizer is a former student's). What the sayings are decides what is written: by one rule of reading, of 100
texts of the tuned model a student of ten passes over all kinds of sayings wrote 50 with a meaning, one of five passes 55,
and without comparisons and words said twice (`plain`) 58. Ending on the finest sayings alone (eight rows of ten) is worse
(44): they are read so often that they are known by heart.
"""
