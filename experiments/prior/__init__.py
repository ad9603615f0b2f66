"""Training and judging the embedded prior; the scripts beside this folder put it together."""
