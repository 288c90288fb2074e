"""Predictions against the truth, and the figures made from that."""
