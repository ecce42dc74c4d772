"""Fine-tuning: configuration by BiT-HyperRule, and the paper's protocol."""
