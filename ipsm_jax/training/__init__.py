"""Training state, optimiser, density control, the jitted step and the loop around it."""
