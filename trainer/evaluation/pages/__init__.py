"""What people read of an evaluation: the page with its figures and tables, and the model card."""
