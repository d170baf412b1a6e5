"""Questions put to a network; each measures and returns plain data, and never draws."""
