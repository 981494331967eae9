"""The thin Lightning module, its callbacks, and the trainer."""
