"""The nouns: frozen values that every other room may use. No clock, no I/O, nothing of ours imported."""
