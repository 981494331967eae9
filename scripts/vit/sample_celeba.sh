#!/bin/sh
# The published sampler of the UViT on CelebA; name the run with --run_id ID.
exec python "$(dirname "$0")/../../generate.py" --run_id latest --solver pc --mode ode --steps 100 --snr 0.16 --factor 2 "$@"
