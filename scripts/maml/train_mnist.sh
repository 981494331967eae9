#!/bin/sh
# INR on MNIST at 32x32 with the published values (arXiv 2303.00800).
exec python "$(dirname "$0")/../../train.py" --preset fdp-mnist-inr "$@"
