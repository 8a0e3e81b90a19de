package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// guardArgument is what this program is started with to be the guard.
const guardArgument = "-guard"

// Guard is a second process that ends what is left when the first dies without a word: it sees so by the pipe between
// them, which the kernel closes.
type Guard struct {
	process *exec.Cmd
	pipe    io.WriteCloser
}

// NewGuard starts the guard of a temporary folder.
func NewGuard(folder string) (*Guard, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	process := exec.Command(program, guardArgument)
	pipe, err := process.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := startGroup(process); err != nil {
		return nil, err
	}
	fmt.Fprintln(pipe, "folder", folder)
	return &Guard{process, pipe}, nil
}

// Watch has a process group ended with this process.
func (g *Guard) Watch(group int) { fmt.Fprintln(g.pipe, "watch", group) }

// Forget tells that a process group has ended: its number may become another's.
func (g *Guard) Forget(group int) { fmt.Fprintln(g.pipe, "forget", group) }

// End ends the guard, which then finds nothing to do.
func (g *Guard) End() {
	g.pipe.Close()
	g.process.Wait()
}

// guard is what the second process does.
func guard(orders io.Reader) {
	// Whoever ends the first process may mean its whole session.
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	folder := ""
	var groups []int
	lines := bufio.NewScanner(orders)
	for lines.Scan() {
		order, value, _ := strings.Cut(lines.Text(), " ")
		group, _ := strconv.Atoi(value)
		switch order {
		case "folder":
			folder = value
		case "watch":
			groups = append(groups, group)
		case "forget":
			groups = slices.DeleteFunc(groups, func(one int) bool { return one == group })
		}
	}
	// The last first: what came later may need what came before, and start it again.
	for _, group := range slices.Backward(groups) {
		syscall.Kill(-group, syscall.SIGKILL)
	}
	if folder != "" {
		os.RemoveAll(folder)
	}
}
