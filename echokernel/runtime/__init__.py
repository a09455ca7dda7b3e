"""The kernel's process: from the startup file to the last reply."""
