#!/bin/sh
# The published sampler of the INR on MNIST; name the run with --run_id ID.
exec python "$(dirname "$0")/../../generate.py" --run_id latest --solver pc --mode sde --steps 50 --snr 0.19 --factor 2 "$@"
