"""The guard for files that others may have written: every reader of such files opens them through these modules.

Nothing here imports other modules of this project, so that all packages can use it.
"""
