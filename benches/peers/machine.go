package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
)

// machine is the processor, cores, memory and kernel, as `make bench` writes them.
func machine() string {
	processor := field("/proc/cpuinfo", "model name")
	kib, _ := strconv.Atoi(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"))
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	const kibPerGib = 1 << 20
	return fmt.Sprintf("%s, %d cores, %d GiB of memory, Linux %s",
		processor, runtime.NumCPU(), (kib+kibPerGib-1)/kibPerGib, strings.TrimSpace(string(kernel)))
}

// commit is what is checked out, which Quorate was built from, and whether it was changed since.
func commit() string {
	git := func(arguments ...string) string {
		said, err := exec.Command("git", arguments...).Output()
		if err != nil {
			return "unknown"
		}
		return strings.TrimSpace(string(said))
	}
	if git("status", "--porcelain", "--untracked-files=no") != "" {
		return git("rev-parse", "--short", "HEAD") + " with changes"
	}
	return git("rev-parse", "--short", "HEAD")
}

// field is the value behind a name at the start of a line.
func field(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
