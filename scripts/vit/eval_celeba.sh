#!/bin/sh
# The published figures of the UViT on CelebA; name the run with --run_id ID.
exec python "$(dirname "$0")/../../evaluate.py" --run_id latest --protocol fdp-celeba --solver pc --mode ode --steps 100 --snr 0.16 --factor 2 "$@"
