#!/bin/sh
# The published sampler of the INR on CelebA; name the run with --run_id ID.
exec python "$(dirname "$0")/../../generate.py" --run_id latest --solver pc --mode ode --steps 400 --snr 0.17 --factor 1 "$@"
