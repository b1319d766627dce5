"""Pure core: decides and folds without I/O, clock or randomness."""
