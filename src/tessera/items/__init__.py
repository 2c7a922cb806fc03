"""What are the items? Sources, the k-core, splits, encoders and clusters."""
