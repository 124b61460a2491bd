"""Records that stages hand to each other: what was measured, and figures of it."""
