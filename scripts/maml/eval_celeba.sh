#!/bin/sh
# The published figures of the INR on CelebA; name the run with --run_id ID.
exec python "$(dirname "$0")/../../evaluate.py" --run_id latest --protocol fdp-celeba --solver pc --mode ode --steps 400 --snr 0.17 --factor 1 "$@"
