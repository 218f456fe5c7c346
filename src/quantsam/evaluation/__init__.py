"""Dataset + model + prompts -> record."""
