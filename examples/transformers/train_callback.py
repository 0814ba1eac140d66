"""The model of train.py with Holdfast's callback: saved between two steps and verified, requeued by the controller."""

import torch
from holdfast.adapters.transformers import HoldfastCallback
from train import Steps, arguments, tiny_trainer


def main() -> None:
    """Train, or go on where the attempt before this one was."""
    options = arguments()
    keeper = HoldfastCallback(directory=options.out / "checkpoints")
    trainer = tiny_trainer(options, keeper, Steps(options.step_s), save_strategy="no")
    trainer.train(resume_from_checkpoint=keeper.resume_path(trainer))
    torch.save(trainer.model.state_dict(), options.out / "model.pt")


if __name__ == "__main__":
    main()
