"""Jobs on Google Kubernetes Engine."""
