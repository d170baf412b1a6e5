"""The runner of studies: what a table of a paper needs, what is missing of it, and what came out."""
