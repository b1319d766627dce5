"""What `cas doctor` makes of a diagnosis: checks, and from them which of DESIGN's promises hold. Pure functions."""
