"""One rank of a job that `nodes.launch` began: python -m moediff.core.rank TASK"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from moediff.core import nodes, preemption
from moediff.core.errors import UserError


def main(file: Path) -> int:
    """Do the task of a file as the rank that the environment says; the exit code."""
    nodes.follow_slurm()
    try:
        from moediff.core import ranks

        with preemption.heeded():
            function, given, about = nodes.task_of(file)
            ranks.begin_as(about, leads=os.environ.get("RANK") == "0")
            ranks.together(1, function, *given)
    except preemption.Preempted as end:
        return end.code
    except UserError as error:
        nodes.say(file, str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
