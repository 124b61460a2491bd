"""Students: architecture and presets, engines, the torch module and the baseline."""
