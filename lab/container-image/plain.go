// plain lets the kernel compute the checksums of what an interface sends, as `ethtool -K INTERFACE tx off` does: Open vSwitch's
// userspace datapath drops TCP whose checksum is left to a network card that isn't there.
//
//	plain INTERFACE
package main

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

// linux/sockios.h, linux/ethtool.h
const (
	siocEthtool          = 0x8946
	setTransmitChecksums = 0x17
	longestInterfaceName = 15
)

// struct ethtool_value
type value struct{ command, data uint32 }

// struct ifreq, whose union begins with a pointer here and is 24 bytes long
type request struct {
	name [longestInterfaceName + 1]byte
	data *value
	_    [16]byte
}

func main() {
	if len(os.Args) != 2 || len(os.Args[1]) > longestInterfaceName {
		fmt.Fprintln(os.Stderr, "usage: plain INTERFACE")
		os.Exit(2)
	}
	if err := plain(os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "plain: %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func plain(device string) error {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	ask := request{data: &value{command: setTransmitChecksums}}
	copy(ask.name[:], device)
	_, _, failure := syscall.Syscall(syscall.SYS_IOCTL, uintptr(socket), siocEthtool, uintptr(unsafe.Pointer(&ask)))
	if failure != 0 {
		return failure
	}
	return nil
}
