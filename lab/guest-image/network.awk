# Reads a network-config version 2 (https://netplan.readthedocs.io/en/stable/netplan-yaml/) and prints one fact a line:
#   name MAC NAME | address MAC CIDR | mtu MAC BYTES | route MAC DESTINATION GATEWAY | dhcp MAC | dns MAC ADDRESS
# Understands block style with one key a line, and lists in either style: what the operator's seed uses.
function bare(text) { gsub(/^[[ \t]+|[] \t,}]+$/, "", text); gsub(/["']/, "", text); return text }
function flush_route() { if (to != "" && via != "") facts[++count] = "route MAC " to " " via; to = via = "" }
function flush(   i) {
  flush_route()
  if (mac != "" && rename != "") print "name " mac " " rename
  for (i = 1; i <= count; i++) if (mac != "") { sub(/MAC/, mac, facts[i]); print facts[i] }
  count = 0; mac = rename = list = ""
}
function item(text) {
  if (text != "" && list == "addresses") facts[++count] = "address MAC " text
  if (text != "" && list == "nameservers") facts[++count] = "dns MAC " text
}
function destination(text) { return text == "0.0.0.0/0" ? "default" : text }
/^[ \t]*(#|$)/ { next }
{
  match($0, /^ */); depth = RLENGTH
  line = substr($0, depth + 1)
  dash = sub(/^- +/, "", line)
  if (line ~ /^ethernets:/) { device_depth = -1; inside = 1; next }
  if (!inside) next
  if (device_depth == -1) device_depth = depth
  if (depth <= device_depth && !dash) { flush(); if (depth < device_depth) inside = 0; next }
  sub(/^match: *\{ */, "", line)
  value = line; sub(/^[^:]*:[ \t]*/, "", value)
  if (list == "routes" && dash) flush_route()
  if (line ~ /^macaddress:/) mac = tolower(bare(value))
  else if (line ~ /^set-name:/) rename = bare(value)
  else if (line ~ /^mtu:/) facts[++count] = "mtu MAC " bare(value)
  else if (line ~ /^gateway4:/) facts[++count] = "route MAC default " bare(value)
  else if (line ~ /^dhcp4:/) { if (bare(value) ~ /^(true|yes|on)$/) facts[++count] = "dhcp MAC" }
  else if (line ~ /^addresses:/) {
    if (list != "nameservers") list = "addresses"
    n = split(bare(value), parts, ",")
    for (i = 1; i <= n; i++) item(bare(parts[i]))
  }
  else if (line ~ /^nameservers:/) list = "nameservers"
  else if (line ~ /^routes:/) list = "routes"
  else if (list == "routes" && line ~ /^to:/) to = destination(bare(value))
  else if (list == "routes" && line ~ /^via:/) via = bare(value)
  else if (dash) item(bare(line))
}
END { flush() }
