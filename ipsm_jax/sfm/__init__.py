"""Structure from motion: a folder of plain photos, or a video, to a scene folder that training reads."""
