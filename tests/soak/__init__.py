"""Everything at once against one kernel, for a long time: ``cd tests && python -m soak``."""
