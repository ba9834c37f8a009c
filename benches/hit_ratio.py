#!/usr/bin/env python3
"""Runs benches/hit_ratio.rs, keeps what it finds, and publishes it if that is wanted. Some three minutes.

Needs cargo. Standard library only.
"""

import json
import subprocess

from processes import ROOT
from sidecars import about, arguments, keep


def main():
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=int, default=2_000_000)
    parser.add_argument("--keys", type=int, default=500_000)
    options = parser.parse_args()
    shape = ["--requests", str(options.requests), "--keys", str(options.keys)]
    args = ["cargo", "bench", "--locked", "--quiet", "--bench", "hit_ratio", "--", *shape]
    run = subprocess.run(args, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    lines = run.stdout.splitlines()
    found = json.loads(lines[-1])
    shape = f"\n{found['requests']:,} reads and writes of {found['keys']:,} keys a trace, at 10,000 a second; the second half counts."
    keep("hit-ratio", about(options), found, "\n".join(lines[:-1]) + "\n" + shape, options, "make hit-ratio")


if __name__ == "__main__":
    main()
