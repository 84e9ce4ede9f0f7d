"""Names of what fills holes without a checkpoint. Without jax, so that --help is quick."""

CLASSICAL = ("smooth", "telea", "navier-stokes")
# patches: copies the photograph's own (patches.py). network: the small one of the package. auto:
# patches, a smooth fill with grain in plain surroundings, the network where there are few patches.
METHODS = ("auto", "patches", "network", *CLASSICAL)
