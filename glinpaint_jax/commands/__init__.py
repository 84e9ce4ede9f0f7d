"""The commands of `python -m glinpaint_jax`, a module each."""
