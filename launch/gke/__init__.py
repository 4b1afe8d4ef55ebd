"""GKE: through xpk, or as a JobSet for any Kubernetes cluster that has JobSet installed."""
