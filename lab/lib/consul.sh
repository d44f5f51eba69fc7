# A Consul server in each site; together they are the datacenter `isthmus`.
# shellcheck shell=bash

consul_start() { # ID
  has_service "$1" consul && ! alive "$1-consul" || return 0
  local id join=() servers=0
  for id in "${ids[@]}"; do
    has_service "$id" consul || continue
    servers=$((servers + 1))
    [ "$id" = "$1" ] || join+=(-retry-join "${address_of[$id]}")
  done
  mkdir -p "$state/$1/consul"
  # Of a client that was killed it waits for the longest of its blocking queries (5 min); tests kill an operator every few seconds.
  # A little below the 1,024 open files that many systems allow, or Consul does not start.
  echo '{"performance": {"raft_multiplier": 1}, "disable_update_check": true, "limits": {"http_max_conns_per_client": 1000}}' >"$state/$1/consul.json"
  launch "$1-consul" --site "$1" "$tools/consul" agent -server -bootstrap-expect "$servers" -datacenter isthmus \
    -node "$1" -bind "${address_of[$1]}" -client "127.0.0.1 ${address_of[$1]}" -data-dir "$state/$1/consul" \
    -config-file "$state/$1/consul.json" -retry-interval 1s "${join[@]}"
}

consul_ready() {
  local id
  for id in "${ids[@]}"; do
    has_service "$id" consul || continue
    wait_for_daemon 30 "$id-consul" has_leader "${address_of[$id]}"
  done
}

has_leader() { # ADDRESS: and it takes writes
  CONSUL_HTTP_ADDR="http://$1:8500" "$tools/consul" kv get -keys isthmus-lab/none
}
