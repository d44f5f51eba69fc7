# The tiny guest: Debian's cloud kernel and a busybox initramfs on one bootable disk, built without mounting anything.
# Kept in .cache/ under the hash of what it is made of.
# shellcheck shell=bash

image_parts="$project/lab/guest-image"
kernel_package="$cache/kernel"

kernel_deb() { find "$kernel_package" -name 'linux-image-*.deb' 2>/dev/null | sort -V | tail -n 1; }

fetch_kernel() {
  [ -z "$(kernel_deb)" ] || return 0
  local name
  mkdir -p "$kernel_package/part"
  name=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image/ { print $2; exit }')
  [ -n "$name" ] || { apt-get -q update; name=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image/ { print $2; exit }'); }
  (cd "$kernel_package/part" && apt-get -q -o APT::Sandbox::User=root download "$name")
  mv "$kernel_package/part/"*.deb "$kernel_package/"
  rmdir "$kernel_package/part"
}

image_path() { # where the image of today's inputs is, built or not
  local deb
  deb=$(kernel_deb)
  echo "$cache/images/tiny-$({
    basename "${deb:-none}"
    sha256sum "$(command -v busybox)" | cut -d' ' -f1
    cat "$project/lab/lib/image.sh" "$image_parts"/*
  } | sha256sum | cut -c1-16).qcow2"
}

# A program of a guest's, in Go, built when its source has changed; the compiler is the one of tools/. Sets `program`.
build_program() { # SOURCE
  local name
  name=$(basename "$1" .go)
  program="$cache/$name-$(sha256sum "$1" | cut -c1-16)"
  [ ! -x "$program" ] || return 0
  command -v go >/dev/null || { echo "needs Go ≥ 1.25 to build $1" >&2; return 1; }
  CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOFLAGS='' GOWORK=off GOTOOLCHAIN=local \
    go build -trimpath -ldflags '-s -w' -o "$program.part" "$1"
  rm -f "$cache/$name"-????????????????
  mv "$program.part" "$program"
}

# In the order they load, each after what it needs: at once; for a seed that is no virtio disk; when the network is up.
modules_first=(
  virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net virtio_blk
  cdrom isofs fat vfat nls_cp437 nls_ascii
)
modules_seed=(scsi_common scsi_mod virtio_scsi libata ata_piix sr_mod)
modules_later=(button evdev)

build_image() {
  local target work root module name program
  fetch_kernel
  target=$(image_path)
  [ ! -s "$target" ] || return 0
  build_program "$image_parts/frames.go"
  work=$(mktemp -d "$cache/image.XXXXXX")
  # shellcheck disable=SC2064 # the name of now
  trap "rm -rf '$work'" EXIT
  dpkg-deb --fsys-tarfile "$(kernel_deb)" | tar -x -C "$work" --wildcards './boot/vmlinuz-*' './lib/modules/*/kernel/*'

  root=$work/root
  mkdir -p "$root"/{bin,sbin,dev,proc,sys,run,etc,tmp,root,modules,guest}
  cp "$(command -v busybox)" "$root/bin/busybox"
  busybox --list | grep -vx busybox | while read -r name; do ln -sf busybox "$root/bin/$name"; done
  cp "$image_parts"/{console,seconds,network.awk} "$root/guest/"
  cp "$image_parts/init" "$root/init"
  cp "$image_parts/inittab" "$root/etc/inittab"
  chmod +x "$root/init" "$root/guest/"{console,seconds}
  cp "$program" "$root/bin/frames"
  mkdir -p "$root/etc/acpi/PWRF"
  printf '#!/bin/sh\nsync\nexec poweroff -f\n' >"$root/etc/acpi/PWRF/00000080"
  chmod +x "$root/etc/acpi/PWRF/00000080"
  for name in "${modules_first[@]}" "${modules_seed[@]}" "${modules_later[@]}"; do
    module=$(find "$work/lib/modules" -name "$name.ko")
    [ -n "$module" ] || { echo "the kernel has no module $name" >&2; return 1; }
    cp "$module" "$root/modules/"
  done
  echo "${modules_first[*]}" >"$root/modules/first"
  echo "${modules_seed[*]}" >"$root/modules/seed"
  echo "${modules_later[*]}" >"$root/modules/later"
  (cd "$root" && find . | sort | cpio --quiet -o -H newc --owner 0:0 | gzip -1 >"$work/initrd")

  # A FAT file system without a partition table, which the BIOS boots through syslinux's sector. The counters of `seconds`
  # go behind it, at 48 MiB.
  truncate -s 40M "$work/disk"
  mkfs.vfat -n TINY "$work/disk"
  mcopy -i "$work/disk" "$work"/boot/vmlinuz-* ::vmlinuz
  mcopy -i "$work/disk" "$work/initrd" ::initrd
  mcopy -i "$work/disk" "$image_parts/syslinux.cfg" ::syslinux.cfg
  syslinux --install "$work/disk"
  truncate -s 64M "$work/disk"
  qemu-img convert -q -f raw -O qcow2 "$work/disk" "$work/tiny.qcow2"
  mkdir -p "$cache/images"
  rm -f "$cache/images"/tiny-*.qcow2 # of earlier inputs; the hosts have copies
  mv "$work/tiny.qcow2" "$target"
}

# A volume `tiny.qcow2` of the pool `images`. An earlier one stays while there are machines: their overlays stand on it.
install_image() { # ID
  local volume="$state/$1/var/lib/libvirt/isthmus-images/tiny.qcow2"
  if cmp -s "$(image_path)" "$volume"; then return; fi
  if [ -f "$volume" ] && compgen -G "$state/*/var/lib/libvirt/images/*" >/dev/null; then
    echo "$1 keeps an earlier tiny.qcow2: there are machines. Run lab/up again when they are gone."
    return
  fi
  mkdir -p "$(dirname "$volume")"
  cp --reflink=auto "$(image_path)" "$volume.part"
  mv "$volume.part" "$volume"
}
