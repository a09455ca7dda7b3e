"""All kinds of load on one kernel, for a long time: ``cd tests && python -m soak``."""
