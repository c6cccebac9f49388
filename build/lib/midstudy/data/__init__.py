"""Where text comes from and how it becomes batches: sources, tokenizer, token files, slots, order."""
