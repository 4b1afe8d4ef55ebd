"""SkyPilot: managed jobs on any cloud or Kubernetes cluster it knows, recovered when they are preempted."""
