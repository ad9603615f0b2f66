"""Readers of posed photo collections, all ending in one `Scene`."""
