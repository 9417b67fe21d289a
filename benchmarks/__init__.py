"""Programs that measure, and what they found: one file of results a machine and date."""
