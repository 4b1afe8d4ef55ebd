"""TPU VMs, asked for at once or through a queued resource; gcloud's command line does all of it."""
