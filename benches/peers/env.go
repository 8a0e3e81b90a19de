package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// nodes of every system.
	nodes = 3
	// startTimeout is how long a system may take to start: JVMs on a busy machine.
	startTimeout = 3 * time.Minute
	// stopTimeout is how long a process may take to end when asked.
	stopTimeout = 20 * time.Second
	// pollInterval is between two looks at whether a system is ready.
	pollInterval = 200 * time.Millisecond
)

// Env is where everything lies: one temporary folder for programs, data and logs.
type Env struct {
	Settings Settings
	// Quorate is our program.
	Quorate string
	// Folder is of the system that is measured now, empty at its start.
	Folder string
	root   string
	guard  *Guard
}

// NewEnv makes the temporary folder.
func NewEnv(settings Settings, quorate, data string) (*Env, error) {
	quorate, err := filepath.Abs(quorate)
	if err != nil {
		return nil, err
	}
	root, err := os.MkdirTemp(data, "quorate-peers-")
	if err != nil {
		return nil, err
	}
	if root, err = filepath.Abs(root); err != nil {
		return nil, err
	}
	guard, err := NewGuard(root)
	if err != nil {
		os.RemoveAll(root)
		return nil, err
	}
	return &Env{Settings: settings, Quorate: quorate, root: root, guard: guard}, nil
}

// Remove takes away everything that was written.
func (e *Env) Remove() {
	os.RemoveAll(e.root)
	e.guard.End()
}

// Programs is the folder of what was installed for this run.
func (e *Env) Programs() string { return filepath.Join(e.root, "programs") }

// NewFolder empties the folder of the system that is measured.
func (e *Env) NewFolder() error {
	e.Folder = filepath.Join(e.root, "system")
	if err := os.RemoveAll(e.Folder); err != nil {
		return err
	}
	return os.MkdirAll(e.Folder, 0o755)
}

// Write makes a file in the system's folder and returns its path.
func (e *Env) Write(name, text string) (string, error) {
	path := filepath.Join(e.Folder, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// GoTool builds a server that go.mod lists as a tool, and returns its version.
func (e *Env) GoTool(ctx context.Context, module, program string) (string, error) {
	path := filepath.Join(e.Programs(), program)
	if _, err := e.Output(exec.CommandContext(ctx, "go", "build", "-o", path, module)); err != nil {
		return "", err
	}
	return e.Output(exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", module))
}

// Nodes are the processes of a system.
type Nodes struct {
	processes []*exec.Cmd
	ended     []chan struct{}
	guard     *Guard
}

// Start starts a process of the system; what it says goes to NAME.log in the system's folder.
func (n *Nodes) Start(env *Env, name string, command *exec.Cmd) error {
	log, err := os.Create(filepath.Join(env.Folder, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	command.Dir, command.Stdout, command.Stderr = env.Folder, log, log
	if err := startGroup(command); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		command.Wait()
		close(ended)
	}()
	n.processes, n.ended = append(n.processes, command), append(n.ended, ended)
	env.guard.Watch(command.Process.Pid)
	n.guard = env.guard
	return nil
}

// startGroup starts a process in a group of its own, which is ended as a whole.
func startGroup(command *exec.Cmd) error {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return command.Start()
}

// Stop asks all processes to end, and kills those that do not.
func (n *Nodes) Stop() {
	for _, process := range n.processes {
		syscall.Kill(-process.Process.Pid, syscall.SIGTERM)
	}
	deadline := time.After(stopTimeout)
	for at, process := range n.processes {
		select {
		case <-n.ended[at]:
		case <-deadline:
			deadline = time.After(0)
		}
		// What its group still has, which ended with it otherwise.
		syscall.Kill(-process.Process.Pid, syscall.SIGKILL)
		<-n.ended[at]
		n.guard.Forget(process.Process.Pid)
	}
}

// Ended says whether a process has ended, which none should.
func (n *Nodes) Ended() error {
	for at, process := range n.processes {
		select {
		case <-n.ended[at]:
			said, _ := os.ReadFile(process.Stdout.(*os.File).Name())
			return fmt.Errorf("%s ended: %s", filepath.Base(process.Path), tail(string(said)))
		default:
		}
	}
	return nil
}

// Wait looks again and again whether something is so, for as long as the context and the processes live.
func (n *Nodes) Wait(ctx context.Context, what string, look func() error) error {
	for {
		err := look()
		if err == nil {
			return nil
		}
		if ended := n.Ended(); ended != nil {
			return ended
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s: %w", what, err)
		case <-time.After(pollInterval):
		}
	}
}

// Ports are free ones on loopback. All are held until the last is found, so that none is found twice.
func Ports(count int) ([]int, error) {
	var ports []int
	for range count {
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// address of a port on loopback.
func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// Output runs a program to its end and returns what it said.
func (e *Env) Output(command *exec.Cmd) (string, error) {
	var out, said bytes.Buffer
	command.Stdout, command.Stderr = &out, &said
	if command.Cancel != nil {
		command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGTERM) }
		command.WaitDelay = stopTimeout
	}
	err := startGroup(command)
	if err == nil {
		e.guard.Watch(command.Process.Pid)
		err = command.Wait()
		e.guard.Forget(command.Process.Pid)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(command.Args, " "), err, tail(said.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// tail is the end of what a program said.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}

// need finds a program, or says which Debian package has it.
func need(program, pkg string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%s is missing (package %s)", program, pkg)
	}
	return path, nil
}
