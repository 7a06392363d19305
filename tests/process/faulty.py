"""Run train.py with an injected fault: python faulty.py FAULT[:SINCE[:UNTIL]] [train.py's options]

The fault is active from SINCE images seen (default: the start) until UNTIL images seen (default: the end).
"""

import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
NAN = float("nan")


class FakeWandB:
    """Stand in for the wandb module when its service is unreachable, hangs, fails or is slow."""

    class errors:
        class Error(Exception):
            pass

    class Settings:
        def __init__(self, **_):
            pass

    def __init__(self, fault):
        self.fault, self.calls = fault, 0

    def init(self, **_):
        if self.fault == "wandb-unreachable":
            raise ConnectionError("no route to host")
        if self.fault == "wandb-hanging":
            time.sleep(3600)
        return self

    def define_metric(self, *_, **__):
        pass

    Image = Table = staticmethod(lambda *_, **__: None)

    def log(self, *_, **__):
        self.calls += 1
        if self.fault == "wandb-failing" and self.calls > 3:
            raise RuntimeError("the service broke down")
        if self.fault == "wandb-slow":
            time.sleep(30)

    def finish(self):
        pass


def main():
    fault, *limits = sys.argv[1].split(":")
    limits = [int(m) for m in limits] + [0, 10**9]
    since, until = limits[0], limits[1] if len(limits) > 3 else 10**9
    sys.argv = ["train.py", *sys.argv[2:]]

    import train
    from pggan.training import loop, tracking

    def is_active(training):
        return since <= training.state.images < until

    if fault.startswith("wandb"):
        sys.modules["wandb"] = FakeWandB(fault)
        tracking.WAIT = loop.Tracker.close.__defaults__ = (0.5,)

    if fault == "clock":
        real_time, start = time.time, time.time()
        time.time = lambda: start - 86400 - 2 * (real_time() - start)

    finish_tick, train_steps = loop.Training.finish_tick, loop.Training.train_until_next_check

    def faulty_tick(self, phase):
        if fault == "full" or fault == "full-at-once":
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (0 if is_active(self) else hard, hard))
        if fault == "gone" and is_active(self):
            os.rename(self.directory.folder, f"{self.directory.folder}-moved")
        return finish_tick(self, phase)

    def faulty_steps(self, phase):
        hooks = []
        if is_active(self) and fault == "nan-weights" and self.state.lr_factor == 1:
            weight = next(self.state.G.parameters()).data
            weight[(0,) * weight.ndim] = NAN
        if is_active(self) and fault == "nan-gradients" and self.state.lr_factor == 1:
            hooks = [p.register_hook(lambda g: g * NAN) for n in (self.state.G, self.state.D) for p in n.parameters()]
        if is_active(self) and fault == "nan-images" and self.state.lr_factor == 1:
            hooks = [self.state.D.register_forward_pre_hook(lambda module, args: (args[0] * NAN, *args[1:]))]
        if is_active(self) and fault == "inf-loss" and self.state.lr_factor == 1:
            hooks = [self.state.D.register_forward_hook(lambda m, a, out: (out[0] * float("inf"), *out[1:]))]
        try:
            return train_steps(self, phase)
        finally:
            for hook in hooks:
                hook.remove()

    loop.Training.finish_tick, loop.Training.train_until_next_check = faulty_tick, faulty_steps
    train.main()


if __name__ == "__main__":
    main()
