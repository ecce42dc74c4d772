"""Fine-tuning: its configuration by BiT-HyperRule, and what the paper's targets and program do differently."""
