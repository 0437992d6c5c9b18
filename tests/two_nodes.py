"""What a test takes for srun, or for torchrun, on two nodes: two_nodes.py slurm|torchrun RANKS COMMAND...

COMMAND is started RANKS times on each node. A node is a group of processes with a temporary folder
of its own; ranks are told who they are by the names that srun or torchrun use. The code is the highest.
"""

import os
import signal
import subprocess
import sys
import tempfile

NAMES = {
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
}

names, each, command = NAMES[sys.argv[1]], int(sys.argv[2]), sys.argv[3:]
started = []
for _ in range(2):
    group, scratch = 0, tempfile.mkdtemp()
    for local in range(each):
        told = dict(zip(names, map(str, (len(started), 2 * each, local)), strict=True))
        environment = os.environ | told | {"TMPDIR": scratch}
        started.append(subprocess.Popen(command, env=environment, process_group=group))
        group = group or started[-1].pid
signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in started])
codes = [process.wait() for process in started]
sys.exit(max(128 - code if code < 0 else code for code in codes))
