"""What of an installation works, what is missing, and the line that repairs it."""
