#!/usr/bin/env bash
# Run a model on several Slurm nodes: sbatch configs/cluster/slurm.sh configs/mnist.yaml [--set cluster.strategy=spread …]
#SBATCH --job-name=serket
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --time=01:00:00
set -euo pipefail

model=${1:?expected a model file}
shift
port=6379
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}

# A token for this job only, readable only by its owner; the nodes share the home directory.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/token-$SLURM_JOB_ID"
begun="$HOME/.ray/begun-$SLURM_JOB_ID"
mkdir -p "$HOME/.ray"
(umask 077 && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH" "$begun"' EXIT

# Timeouts of the other nodes: the first for the start of the head, which is slow on a busy file system; the second (one
# minute by default) for noticing that the head has stopped after the run, which delays the end of the job.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=120
export RAY_gcs_rpc_server_reconnect_timeout_s=20

# Ray gives its temporary directory, with the code and the sockets of the run, mode 0777: on each node it is in a new
# directory that other users cannot enter.
# Each node starts Ray; the first one then runs the command, and the others stop when it is done.
# --min-nodes is omitted (the head of Ray 2.60 was observed to fail with it): `cluster.nodes` waits for the nodes. Also
# omitted, since symmetric-run sets them: --head, --node-ip-address, --port and --block. Runs and commits are on the
# shared file system.
# shellcheck disable=SC2016 # the single-quoted text is expanded by the inner shell
srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  bash -c 'RAY_TMPDIR=$(mktemp -d /tmp/serket-XXXXXX) && export RAY_TMPDIR && trap "rm -rf $RAY_TMPDIR" EXIT && "$@"' bash \
  ray symmetric-run --address "$head:$port" --num-cpus "$SLURM_CPUS_PER_TASK" --disable-usage-stats -- \
  bash -c 'touch "$0" && exec serket run "$@"' "$begun" \
  "$model" --address "$head:$port" --set cluster.nodes="$SLURM_NNODES" "$@"

# If Ray does not start on the first node, symmetric-run reports it but exits with status 0.
[[ -e $begun ]] || { echo "the run was not started: Ray did not start on $head" >&2; exit 1; }
