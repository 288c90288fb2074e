"""Poses of particles, their averages, and what these tell: symmetry, hand, identity, agreement of halves."""
