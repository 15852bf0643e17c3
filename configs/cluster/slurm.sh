#!/usr/bin/env bash
# A run over several Slurm nodes: sbatch configs/cluster/slurm.sh configs/mnist.yaml [--set cluster.strategy=spread …]
#SBATCH --job-name=serket
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --time=01:00:00
set -euo pipefail

model=${1:?say which model file}
shift
port=6379
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}

# One token for this job alone, readable by its owner; the nodes share the home directory.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/token-$SLURM_JOB_ID"
begun="$HOME/.ray/begun-$SLURM_JOB_ID"
mkdir -p "$HOME/.ray"
(umask 077 && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH" "$begun"' EXIT

# A head may take a while to start where many read its files, and the other nodes wait for it no longer than this; when
# the run is done they notice that it has gone only by not reaching it: the job ends so much later (a minute by default).
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=120
export RAY_gcs_rpc_server_reconnect_timeout_s=20

# Each node starts Ray; the first one runs the command once it stands, and the others go when it is done.
# --min-nodes is left out (with it, Ray 2.60's head was seen to fail): `cluster.nodes` waits for them. Also left
# out, since symmetric-run sets them: --head, --node-ip-address, --port and --block. Runs and commits lie on the shared
# file system.
# shellcheck disable=SC2016 # what is quoted once is expanded where it runs
srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  ray symmetric-run --address "$head:$port" --num-cpus "$SLURM_CPUS_PER_TASK" --disable-usage-stats -- \
  bash -c 'touch "$0" && exec serket run "$@"' "$begun" \
  "$model" --address "$head:$port" --set cluster.nodes="$SLURM_NNODES" "$@"

# Where Ray does not start on the first node, symmetric-run says so and ends with status 0.
[[ -e $begun ]] || { echo "the run was not begun: Ray did not start on $head" >&2; exit 1; }
