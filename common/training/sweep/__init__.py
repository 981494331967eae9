"""Several trainings of one command line: ``train.py --sweep hurst=0.7,0.9 --sweep lr=1e-5,2e-5``."""
