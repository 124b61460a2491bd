"""What evaluates a student: the compiled core, or PyTorch."""
