"""A demonstration on real input. `run` is in a module of its own: a worker that loads the tasks needs nothing of the show."""
