"""How a job starts on a cluster, or as several processes on one machine."""
