"""Jobs on several hosts: one description of a job, rendered for the engine that runs it. See launch/README.md."""
