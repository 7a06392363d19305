"""Entry point for torch.hub.

    G = torch.hub.load("OWNER/REPOSITORY", "trained", "runs/faces-128/checkpoints/latest.pt")
    images = G.sample(16, seed=0)     # uint8 [16, 3, 128, 128]

From a local clone: torch.hub.load("FOLDER", "trained", PATH, source="local").
"""

dependencies = ["torch", "numpy", "PIL", "tqdm"]


def trained(checkpoint, device="cpu"):
    """Load the EMA generator of a checkpoint; see `pggan.load`. Nothing in the file is executed.

    Args:
        checkpoint: a checkpoint file, or a run directory for its latest checkpoint.
        device: where the generator runs, such as "cpu" or "cuda".

    Raises:
        pggan.checkpoints.CheckpointError: the checkpoint cannot be read or used.
    """
    from pggan import load  # in here, so that torch.hub checks `dependencies` first

    return load(checkpoint, device)
