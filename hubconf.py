"""torch.hub entry point.

    G = torch.hub.load("OWNER/REPOSITORY", "trained", "runs/faces-128/checkpoints/latest.pt")
    images = G.sample(16, seed=0)     # uint8 [16, 3, 128, 128]

With a clone of the repository: torch.hub.load("FOLDER", "trained", PATH, source="local").
"""

dependencies = ["torch", "numpy", "PIL", "tqdm"]


def trained(checkpoint, device="cpu"):
    """The EMA generator of a checkpoint file, or of a run directory's latest, as `pggan.load` gives it.

    Nothing in the file is run. Raises checkpoints.CheckpointError where it cannot be used.
    """
    from pggan import load

    return load(checkpoint, device)
