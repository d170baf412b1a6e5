"""The machine: device, processes, files, memory, signals and provenance."""
