"""The student file: one .safetensors with weights and, in its metadata, one JSON card."""
