#!/bin/sh
# Strokes filled into faces as published; name the run with --run_id ID; --method exact is ours.
exec python "$(dirname "$0")/../../generate.py" --run_id latest --task inpaint --mask strokes --method replacement --solver pc --mode ode --steps 100 --snr 0.06 --factor 2 "$@"
