"""`oracle-engine pack`: what preparation computes of a folder of shards is kept beside them."""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import asdict

from ..options import Commands, add_command, refuse_key, whole


def add_pack(commands: Commands) -> None:
    """Add the command to `commands`."""
    parser = add_command(commands, "pack", "prepare a folder of shards once, for every later start", run_pack)
    parser.add_argument("dir", metavar="DIR", help="a folder of .npy or .safetensors files, which stay as they are")
    parser.add_argument("--data-key", metavar="KEY", help="which array of a .safetensors file holds the samples")
    parser.add_argument("--verify", action="store_true", help="read every shard and compare it with its checksums")
    parser.add_argument("--workers", type=whole, metavar="N", help="shards read at once (as many as there are cores)")
    refuse_key(parser)


def run_pack(arguments: Namespace) -> None:
    """Pack the folder that `arguments` name, and print what was done."""
    from ...base.progress import progress_bar
    from ...data.packs.pack import pack
    from ..shared import say

    began = time.perf_counter()
    with progress_bar("shards") as progress:
        report = pack(
            arguments.dir,
            key=arguments.data_key,
            verify=arguments.verify,
            workers=arguments.workers,
            progress=progress,
        )
    took = time.perf_counter() - began
    verified = f", {report.verified:,} verified" if arguments.verify else ""
    words = (
        f"{arguments.dir}: {report.samples:,} samples, {report.nbytes / 2**30:,.2f} GiB, in {report.shards:,} shards; "
        f"{report.measured:,} measured now{verified}; {took:.1f} s"
    )
    say(arguments, words, {"folder": arguments.dir, **asdict(report), "elapsed": took})
