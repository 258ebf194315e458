"""What a step of training adds up: one file an objective, and the list of them that is a stage."""
