"""train.py with something going wrong in it: python faulty.py FAULT[:IMAGES[:IMAGES]] [train.py's options]

The moments are in images seen: a fault holds from the first on and ends at the second.
"""

import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
NAN = float("nan")


class FakeWandB:
    """A service that behaves badly: unreachable, hanging, failing or slow."""

    class errors:
        class Error(Exception):
            pass

    class Settings:
        def __init__(self, **_):
            pass

    def __init__(self, manner):
        self.manner, self.calls = manner, 0

    def init(self, **_):
        if self.manner == "wandb-unreachable":
            raise ConnectionError("no route to host")
        if self.manner == "wandb-hanging":
            time.sleep(3600)
        return self

    def define_metric(self, *_, **__):
        pass

    Image = Table = staticmethod(lambda *_, **__: None)

    def log(self, *_, **__):
        self.calls += 1
        if self.manner == "wandb-failing" and self.calls > 3:
            raise RuntimeError("the service broke down")
        if self.manner == "wandb-slow":
            time.sleep(30)

    def finish(self):
        pass


def main():
    fault, *moments = sys.argv[1].split(":")
    moments = [int(m) for m in moments] + [0, 10**9]
    since, until = moments[0], moments[1] if len(moments) > 3 else 10**9
    sys.argv = ["train.py", *sys.argv[2:]]

    import train
    from pggan.training import loop, tracking

    def now(training):
        return since <= training.state.images < until

    if fault.startswith("wandb"):
        sys.modules["wandb"] = FakeWandB(fault)
        tracking.WAIT = loop.Tracker.close.__defaults__ = (0.5,)

    if fault == "clock":
        real, start = time.time, time.time()
        time.time = lambda: start - 86400 - 2 * (real() - start)

    tick, step = loop.Training.finish_tick, loop.Training.train_until_next_check

    def faulty_tick(self, phase):
        if fault == "full" or fault == "full-at-once":
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (0 if now(self) else hard, hard))
        if fault == "gone" and now(self):
            os.rename(self.directory.folder, f"{self.directory.folder}-moved")
        return tick(self, phase)

    def faulty_step(self, phase):
        hooks = []
        if now(self) and fault == "nan-weights" and self.state.lr_factor == 1:
            weight = next(self.state.G.parameters()).data
            weight[(0,) * weight.ndim] = NAN
        if now(self) and fault == "nan-gradients" and self.state.lr_factor == 1:
            hooks = [p.register_hook(lambda g: g * NAN) for n in (self.state.G, self.state.D) for p in n.parameters()]
        if now(self) and fault == "nan-images" and self.state.lr_factor == 1:
            hooks = [self.state.D.register_forward_pre_hook(lambda module, args: (args[0] * NAN, *args[1:]))]
        if now(self) and fault == "inf-loss" and self.state.lr_factor == 1:
            hooks = [self.state.D.register_forward_hook(lambda m, a, out: (out[0] * float("inf"), *out[1:]))]
        try:
            return step(self, phase)
        finally:
            for hook in hooks:
                hook.remove()

    loop.Training.finish_tick, loop.Training.train_until_next_check = faulty_tick, faulty_step
    train.main()


if __name__ == "__main__":
    main()
