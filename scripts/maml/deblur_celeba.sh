#!/bin/sh
# Blurred faces made sharp as published; name the run with --run_id ID; --method exact is ours.
exec python "$(dirname "$0")/../../generate.py" --run_id latest --task deblur --lowpass_radius 10 --method replacement --solver pc --mode sde --steps 1000 --snr 0.19 --factor 1 "$@"
