"""Many fine-tunings by one command."""
