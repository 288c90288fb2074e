"""From coordinates of atoms to a tomogram of them: densities, specimen, tilt series, reconstruction."""
