"""What the files in the folders that stages write are called."""

MANIFEST = "manifest.json"
PARTICLES, TOMOGRAMS, CLASSES, OPTIMISATION_SET = "particles.star", "tomograms.star", "classes.star", "optimisation_set.star"
EMBEDDING = "embedding.npy"
"""A row for each of the particles."""
PAGE, METRICS = "report.html", "metrics.json"
CARD, WEIGHTS, NOVELTY = "model.json", "weights.safetensors", "novelty.safetensors"
"""In the folder of a model."""
LIBRARY = "library.json"
"""In a folder of structures."""
GROUPS, GROUP_FOLDERS = "groups.star", "groups"
"""In the folder of a discovery; each group has a folder of its own there."""
GROUP, SHAPE = "group.json", "shape.npy"
"""In the folder of a group, beside its particles and their embedding."""


def map_file(kind: str, name: str) -> str:
    """Way from a folder to the map of that kind, such as "masks", of a particle, a tomogram or a class."""
    return f"{kind}/{name}.mrc"
