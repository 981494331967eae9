#!/bin/sh
# Digits of the INR on a grid four times as fine, drawn as published; name the run with --run_id ID.
exec python "$(dirname "$0")/../../generate.py" --run_id latest --solver pc --mode sde --steps 50 --snr 0.19 --factor 2 --target_shape 128,128 "$@"
