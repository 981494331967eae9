#!/bin/sh
# INR on spoken digits with the published values (arXiv 2303.00800).
exec python "$(dirname "$0")/../../train.py" --preset fdp-audio-inr "$@"
