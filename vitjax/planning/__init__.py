"""Jobs planned for devices that are not there: memory, communication, bounds on speed, cost. See `vitjax plan`.

topology     'v5e:16x16' -> device descriptions
standin      a recipe without its data
memory       estimated memory per device, before compilation
compiling    the real train step, compiled for the topology: memory, or DoesNotFit
collectives  communication, read from the compiled program
expected     communication that a sharding implies
roofline     bounds on the step time
job, sweep   one job; many meshes and remat policies
scaling      8 to 512 devices
report       text
"""
