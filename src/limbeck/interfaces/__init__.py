"""Students in the engines that others run."""
