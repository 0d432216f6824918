"""Where jobs run. Knows processes and resources, never training."""
