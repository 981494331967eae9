"""Several processes of one work: which one this is, how they meet, what they learn of each other's end."""
