"""Drawing many samples from a trained run."""
