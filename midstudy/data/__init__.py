"""From text to batches: sources, tokenizer, token files, slots and data order."""
