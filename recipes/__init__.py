"""Experiments that remake a figure or a claim from nothing, each one command."""
