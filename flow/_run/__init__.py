"""Running: `integrate` and `descend`, the loop, its engines, and what a run keeps."""
