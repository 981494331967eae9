"""What both families share: dynamics, denoisers, backbones, solvers, data, training."""
