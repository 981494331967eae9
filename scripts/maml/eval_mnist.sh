#!/bin/sh
# The published figure of the INR on MNIST, FID of LeNet-5; name the run with --run_id ID.
exec python "$(dirname "$0")/../../evaluate.py" --run_id latest --protocol fdp-mnist --solver pc --mode sde --steps 50 --snr 0.19 --factor 2 "$@"
