# The tiny container: busybox on an ext4 file system without partitions, built without mounting anything. Kept in .cache/ under the
# hash of what it is made of, as the tiny guest is (image.sh).
# shellcheck shell=bash

container_parts="$project/lab/container-image"

container_image_path() { # where the image of today's inputs is, built or not
  echo "$cache/images/container-$({
    sha256sum "$(command -v busybox)" | cut -d' ' -f1
    cat "$project/lab/lib/container-image.sh" "$container_parts"/*
  } | sha256sum | cut -c1-16).img"
}

build_container_image() {
  local target work root name program
  target=$(container_image_path)
  [ ! -s "$target" ] || return 0
  build_program "$container_parts/plain.go"
  work=$(mktemp -d "$cache/container.XXXXXX")
  # shellcheck disable=SC2064 # the name of now
  trap "rm -rf '$work'" EXIT
  root=$work/root
  mkdir -p "$root"/{bin,sbin,dev,proc,sys,run,etc,tmp,root}
  cp "$(command -v busybox)" "$root/bin/busybox"
  busybox --list | grep -vx busybox | while read -r name; do ln -sf busybox "$root/bin/$name"; done
  cp "$container_parts/init" "$root/sbin/init"
  cp "$program" "$root/bin/plain"
  chmod +x "$root/sbin/init"
  truncate -s 16M "$work/disk"
  mke2fs -q -t ext4 -d "$root" "$work/disk"
  mkdir -p "$cache/images"
  mv "$work/disk" "$target"
}

# A volume `tiny-ct.img` of the pool `images`. Containers have copies of it, so that it may change under them.
install_container_image() { # ID
  local volume="$state/$1/var/lib/libvirt/isthmus-images/tiny-ct.img"
  if cmp -s "$(container_image_path)" "$volume"; then return; fi
  mkdir -p "$(dirname "$volume")"
  cp --sparse=always "$(container_image_path)" "$volume.part"
  mv "$volume.part" "$volume"
}
