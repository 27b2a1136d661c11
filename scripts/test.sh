#!/usr/bin/env bash
# Fresh machine -> environment, test suite. Arguments go to pytest; the slow tests have their own command: bash scripts/test.sh -m slow
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# One thread a process: the processes share the cores. No test may look for anything on the network.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
exec python -m pytest -n "$(python -c 'import os; print(len(os.sched_getaffinity(0)))')" "$@"
