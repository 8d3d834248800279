"""The problem: an objective, where its data lies, mini-batches, and its gradient checked."""
