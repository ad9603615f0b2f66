"""Losses: pure functions of images, depths and noise predictions."""
