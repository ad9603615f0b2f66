"""Grids of trainings: what is to be trained, what is done, and what trains together (see ../run_grid.py)."""
