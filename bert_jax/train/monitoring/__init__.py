"""What a running job measures and says: metrics, where they go, and what watches over it."""
