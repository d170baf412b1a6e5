"""The runner of studies: plan the trainings of a paper's table, run what is missing, evaluate its claims, report."""
