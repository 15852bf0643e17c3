#!/usr/bin/env bash
# A run over several Slurm nodes: sbatch configs/cluster/slurm.sh configs/mnist.yaml
#SBATCH --job-name=serket
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --time=01:00:00
set -euo pipefail

model=${1:?say which model file}
port=6379
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)  # reads to the end: head(1) would break the pipe

# One token for this job alone, readable by its owner; the nodes share the home directory.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/token-$SLURM_JOB_ID"
mkdir -p "$HOME/.ray"
(umask 077 && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

# Each node starts Ray; the first one runs the command once it stands, and the others go when it is done.
# --min-nodes is left out (with it, Ray 2.60's head was seen to fail): `cluster.nodes` waits for them. Also left
# out, since symmetric-run sets them: --head, --node-ip-address, --port and --block. Runs and commits lie on the shared
# file system.
srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" \
  ray symmetric-run --address "$head:$port" --num-cpus "$SLURM_CPUS_PER_TASK" --disable-usage-stats -- \
  serket run "$model" --address "$head:$port" --set cluster.nodes="$SLURM_NNODES"
