"""What a run keeps on disk or in a bucket: settings, checkpoints, locks and its history."""
