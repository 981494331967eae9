#!/bin/sh
# The published sampler of the UViT on spoken digits; name the run with --run_id ID.
exec python "$(dirname "$0")/../../generate.py" --run_id latest --solver pc --mode sde --predictor reverse_diffusion --steps 1000 --snr 0.17 "$@"
