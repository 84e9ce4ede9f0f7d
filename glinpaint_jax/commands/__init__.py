"""The commands of `python -m glinpaint_jax`, one module each; cli.py is shared."""
