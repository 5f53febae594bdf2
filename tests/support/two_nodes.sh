#!/bin/bash
# Two nodes in network namespaces of their own, joined by a cable; the second is cut off for a while.
# usage: unshare -rnm two_nodes.sh RUN CUT_AT_LINES SECONDS COMMAND…   (COMMAND: fastass's arguments)
set -u
run=$1 cut_at=$2 seconds=$3
shift 3
mount -t tmpfs none /run && mkdir /run/netns || exit 90
for node in 1 2; do
  ip netns add "node$node" && ip -n "node$node" link set lo up || exit 91
done
ip link add cable1 netns node1 type veth peer name cable2 netns node2 || exit 92
for node in 1 2; do
  ip -n "node$node" address add "10.77.0.$node/24" dev "cable$node"
  ip -n "node$node" link set "cable$node" up
done

node() { # as a cluster's manager would: started again when it fails
  number=$1
  shift
  for try in 1 2 3 4 5 6; do
    GLOO_SOCKET_IFNAME="cable$number" ip netns exec "node$number" \
      torchrun --nnodes 2 --nproc-per-node 1 --max-restarts 5 --rdzv-backend c10d \
      --rdzv-id cut --rdzv-endpoint 10.77.0.1:29400 --local-addr "10.77.0.$number" \
      --rdzv-conf "timeout=60,join_timeout=60,read_timeout=20,is_host=$((2 - number))" -m fastass "$@" && return 0
    echo "node $number: agent ended, starting it again ($try)"
    sleep 1
  done
  return 1
}

node 1 "$@" & first=$!
node 2 "$@" & second=$!
lines() { cat "$run/metrics.jsonl" 2> /dev/null | wc -l; }
until [ "$(lines)" -ge "$cut_at" ]; do
  kill -0 $first || exit 93
  sleep 0.05
done
ip -n node2 link set cable2 down
echo "cable cut after $(lines) lines"
sleep "$seconds"
ip -n node2 link set cable2 up
echo "cable back after $(lines) lines"
wait $first; a=$?
wait $second; b=$?
exit $((a | b))
