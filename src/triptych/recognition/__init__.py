"""The network, the folder that keeps a trained one, and how far what it says of a particle may be believed."""
