"""What `make_samples.py` is made of: one module a sample, and what they share."""
