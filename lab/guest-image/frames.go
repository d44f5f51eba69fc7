// frames sends Ethernet frames just as they are given, whatever they claim to be (packet(7)): what an attacker who is root
// in a machine can do.
//
//	frames [-count N] [-interval D] [-fuzz SEED] INTERFACE [HEX...]
//
// Each argument, or each line of standard input if there is none, is a frame in hexadecimal, from the destination address
// on. The list is sent N times (0 = until killed), D apart from frame to frame. With -fuzz, each of the N frames is one of
// the list with random faults; the same seed gives the same frames. What the interface refuses, such as a frame longer than
// its MTU, is counted.
package main

import (
	"bufio"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	allProtocols  = 0x0300 // ETH_P_ALL in network byte order
	shortestFrame = 14     // the kernel takes none without a whole header
	longestFrame  = 1464
)

func main() {
	count := flag.Uint64("count", 1, "how often the list is sent, 0 = until killed; with -fuzz, how many frames")
	interval := flag.Duration("interval", 0, "from one frame to the next")
	seed := flag.Uint64("fuzz", 0, "send faulty variations, as this number says")
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*count, *interval, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "frames:", err)
		os.Exit(1)
	}
}

func run(count uint64, interval time.Duration, seed uint64) error {
	frames, err := read(flag.Args()[1:])
	if err != nil {
		return err
	}
	device, err := net.InterfaceByName(flag.Arg(0))
	if err != nil {
		return err
	}
	socket, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	to := &syscall.SockaddrLinklayer{Protocol: allProtocols, Ifindex: device.Index}
	sent, refused := 0, 0
	send := func(frame []byte) {
		if syscall.Sendto(socket, frame, 0, to) == nil {
			sent++
		} else {
			refused++
		}
		if interval > 0 {
			time.Sleep(interval)
		}
	}
	random := rand.New(rand.NewPCG(seed, 0))
	for n := uint64(0); count == 0 || n < count; n++ {
		if seed != 0 {
			send(vary(random, frames))
			continue
		}
		for _, frame := range frames {
			send(frame)
		}
	}
	fmt.Printf("%d sent, %d refused\n", sent, refused)
	return nil
}

func read(arguments []string) ([][]byte, error) {
	lines := arguments
	if len(lines) == 0 {
		input := bufio.NewScanner(os.Stdin)
		for input.Scan() {
			lines = append(lines, input.Text())
		}
		if err := input.Err(); err != nil {
			return nil, err
		}
	}
	var frames [][]byte
	for _, line := range lines {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		frame, err := hex.DecodeString(line)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		frames = append(frames, frame)
	}
	if len(frames) == 0 {
		return nil, fmt.Errorf("no frames given")
	}
	return frames, nil
}

// Where a header's field may begin, and what makes a switch look at the rest in another way.
var (
	fieldStarts = []int{0, 6, 12, 14, 16, 20, 22, 23, 26, 28, 30, 32, 34, 36, 38}
	etherTypes  = []uint16{0x0800, 0x0806, 0x8035, 0x8100, 0x88a8, 0x9100, 0x86dd, 0x88cc, 0x8942, 0x8847, 0x0026}
)

// vary takes a frame and does one to four things to it: a field of another frame, another type, a tag, random bytes,
// another length.
func vary(random *rand.Rand, frames [][]byte) []byte {
	frame := append([]byte(nil), frames[random.IntN(len(frames))]...)
	for faults := 1 + random.IntN(4); faults > 0; faults-- {
		switch random.IntN(6) {
		case 0, 1:
			other := frames[random.IntN(len(frames))]
			start := fieldStarts[random.IntN(len(fieldStarts))]
			end := start + 1 + random.IntN(12)
			if end <= len(frame) && end <= len(other) {
				copy(frame[start:end], other[start:end])
			}
		case 2:
			put(frame, 12, etherTypes[random.IntN(len(etherTypes))])
		case 3:
			tag := []byte{0, 0, byte(random.UintN(256)), byte(random.UintN(256))}
			put(tag, 0, etherTypes[3+random.IntN(3)])
			if len(frame) >= 12 {
				frame = append(frame[:12:12], append(tag, frame[12:]...)...)
			}
		case 4:
			for flips := 1 + random.IntN(4); flips > 0; flips-- {
				frame[random.IntN(min(len(frame), 64))] = byte(random.UintN(256))
			}
		case 5:
			frame = frame[:shortestFrame+random.IntN(max(1, len(frame)-shortestFrame))]
		}
	}
	for len(frame) < shortestFrame {
		frame = append(frame, 0)
	}
	return frame[:min(len(frame), longestFrame)]
}

func put(frame []byte, at int, value uint16) {
	if at+2 <= len(frame) {
		frame[at], frame[at+1] = byte(value>>8), byte(value)
	}
}
