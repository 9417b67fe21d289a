"""What trained encoders are used for: predictions, scores, missing words and vectors."""
