"""`holdfast run [options] -- command`: training scripts that cannot be changed and save by themselves.

    holdfast run [--checkpoints DIR]... [--signal NAME|none|auto] [--resume-arg ARGS] [--no-hook] [--no-verify] -- COMMAND [ARG]...

One wrapper around one command (`srun holdfast run -- python train.py` makes one for each task). In order:

1. `resume`: the checkpoints below the watched places are verified, newest first; bad ones go to `bad-checkpoints/`; the newest
   good one replaces `{checkpoint}` in the command and stands in HOLDFAST_RESUME_FROM.
2. `child`: the command is started. PYTHONPATH leads its Python processes to `hook/sitecustomize.py`, which (`guard`) makes what torch.save,
   safetensors and Lightning write atomic and sealed (`seal`), and tells the wrapper of saves and of a framework's signal handler.
3. `supervisor`: signals are passed on, the notice file is watched, the process registers in $HOLDFAST_JOB_DIR.
4. `rescue`: on a notice the framework gets its signal; once a new whole checkpoint stands, or the command has ended, it parks.

The exit code is the command's, 128+n if signal n ended it; 2 usage, 126 not executable, 127 not found.
"""
