"""Training state, optimizer, density control, the jitted step and the loop around it."""
