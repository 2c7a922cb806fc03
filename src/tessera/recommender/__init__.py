"""What comes next? Vocabulary, corpus, model, fitting, trie, beam search, fusion and metrics."""
