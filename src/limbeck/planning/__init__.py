"""What a run does where the user leaves it open: starting structures, recipes, and the plan of its time."""
