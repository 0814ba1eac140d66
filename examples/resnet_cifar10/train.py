"""ResNet-20 on CIFAR-10, on one process or data-parallel over several (torchrun, or srun): see README.md."""

import argparse
import os
import time
from pathlib import Path

import holdfast

os.environ.setdefault("OMP_NUM_THREADS", "1")  # must stand before torch is loaded; sums then come out the same each time
import torch

holdfast.mark("torch_loaded")
import torch.distributed as dist  # noqa: E402
from cifar import FILES, Loader, generate  # noqa: E402
from outcome import write_outcome  # noqa: E402
from resnet import ResNet  # noqa: E402


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train ResNet-20 on CIFAR-10; resumes from its checkpoints by itself.")
    parser.add_argument("--data", type=Path, help="folder with data_batch_1.bin ...; without it a synthetic set is made")
    parser.add_argument("--synthetic-images", type=int, default=2000, help="size of the synthetic set")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32, help="over all ranks")
    parser.add_argument("--depth", type=int, default=20, help="6n+2 layers: 8, 14, 20, 32 ...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every-steps", type=int, help="checkpoint every so many steps")
    parser.add_argument("--every-s", type=float, help="checkpoint every so many seconds (default: as the risk is worth)")
    parser.add_argument("--print-every", type=int, default=10, help="steps between two lines of output")
    parser.add_argument("--step-sleep-s", type=float, default=0.0, help="lengthen each step, to try things at leisure")
    parser.add_argument("--out", type=Path, help="file for the final state; its hash goes to FILE.json")
    options = parser.parse_args()
    if options.depth < 8 or (options.depth - 2) % 6:
        parser.error("--depth must be 6n+2")
    return options


def join() -> tuple[int, int]:
    """This process's rank and the number of ranks; joins them by gloo if there are several."""
    env = os.environ
    if "RANK" not in env and "SLURM_STEP_ID" in env:
        env["RANK"], env["WORLD_SIZE"] = env["SLURM_PROCID"], env["SLURM_STEP_NUM_TASKS"]
    rank, world_size = int(env.get("RANK", "0")), int(env.get("WORLD_SIZE", "1"))
    if world_size > 1:
        dist.init_process_group("gloo")  # MASTER_ADDR and MASTER_PORT come from torchrun or from the batch script
    return rank, world_size


def data_folder(options: argparse.Namespace) -> Path:
    """The data set's folder; the synthetic set is made where it is missing."""
    if options.data is not None:
        return Path(options.data)
    base = Path(os.environ.get("TMPDIR", "/tmp")) / f"cifar-synthetic-{os.getuid()}"
    folder = base / f"{options.synthetic_images}.{options.seed}"
    if not all((folder / name).exists() for name in FILES):
        generate(folder, options.synthetic_images, options.seed)
    return folder


def train(options: argparse.Namespace) -> None:
    """The training run."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    rank, world_size = join()
    loader = Loader(data_folder(options), options.batch_size, rank=rank, world_size=world_size, seed=options.seed)
    model = ResNet((options.depth - 2) // 6)
    trained = torch.nn.parallel.DistributedDataParallel(model) if world_size > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=options.steps)
    torch.manual_seed(options.seed + 1 + rank)  # weights alike on all ranks, flips not
    every = {"every_steps": options.every_steps, "every_s": options.every_s}
    run = holdfast.Run(model, optimizer, scheduler, loader, **every)
    for step in run.steps(options.steps):
        images, labels = loader.batch()
        scores = trained(images)
        loss = torch.nn.functional.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        run.log(loss=loss.detach(), epoch=loader.epoch)
        if rank == 0 and (step % options.print_every == 0 or step + 1 == options.steps):
            accuracy = (scores.argmax(1) == labels).float().mean()
            print(f"step {step} attempt {run.attempt} loss {loss.item():.4f} accuracy {accuracy.item():.3f}", flush=True)
        time.sleep(options.step_sleep_s)
    if rank == 0 and options.out is not None:
        digest = write_outcome(options.out, model, optimizer, run.step, world_size)
        print(f"done at step {run.step}: {digest}", flush=True)
    if world_size > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    train(arguments())
