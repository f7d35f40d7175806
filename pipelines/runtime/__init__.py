"""Processes, devices, console and memory: what every stage shares."""
