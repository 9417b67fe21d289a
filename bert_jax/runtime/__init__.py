"""Start-up of a job on one or many hosts, and the chips it runs on."""
