"""Scripts that set up an environment and start programs; they hold no hyperparameters."""
