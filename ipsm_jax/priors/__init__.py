"""Priors: networks that know what pictures look like, each a value with parameters and pure functions."""
