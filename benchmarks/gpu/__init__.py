"""python -m benchmarks.gpu: check, measure and train on a GPU within a time limit; see __main__.py."""
