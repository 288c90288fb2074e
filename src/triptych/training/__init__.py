"""What a network learns from and by: batches of simulated or annotated particles, losses, and how sure it may be afterwards."""
