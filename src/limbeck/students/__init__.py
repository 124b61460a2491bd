"""Students: architecture and presets, the torch module, and the baselines beneath it."""
