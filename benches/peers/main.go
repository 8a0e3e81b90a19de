// Command peers measures Quorate beside the systems that a user would otherwise pick: the same workloads on the same
// machine in one run, three nodes each, one system at a time. README.md says with which settings and why.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// Workload is what producers do.
type Workload struct {
	Name      string `json:"name"`
	Producers int    `json:"producers"`
	InFlight  int    `json:"in_flight"`
}

var workloads = []Workload{
	{"1 producer, 1 in flight", 1, 1},
	{"64 producers, 1 in flight", 64, 1},
	{"8 producers × 128 in flight", 8, 128},
}

// System is what is measured: a name, and how it is brought up.
type System struct {
	Name string
	// Durable says what has happened before a message counts as acknowledged.
	Durable string
	// Prepare installs what is needed and says which version that is; an error is why the system is not run.
	Prepare func(ctx context.Context, env *Env) (string, error)
	// Start brings up three nodes, on empty data in a folder of their own, for one workload.
	Start func(ctx context.Context, env *Env) (Cluster, error)
}

// Cluster is a system that runs.
type Cluster interface {
	// Measure runs a workload.
	Measure(ctx context.Context, workload Workload) (Figure, error)
	// Stop ends its processes.
	Stop()
}

// Settings are the same for every system.
type Settings struct {
	MessageBytes  int `json:"message_bytes"`
	Conversations int `json:"conversations"`
	// Logs are streams, queues and Kafka's partitions: units of order that the peers' conversations are divided among.
	Logs     int           `json:"logs"`
	WarmUp   time.Duration `json:"-"`
	Duration time.Duration `json:"-"`
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == guardArgument {
		guard(os.Stdin)
		return
	}
	quorate := flag.String("quorate", "", "the quorate program (required; `make bench-peers` gives that of `make release`)")
	only := flag.String("only", "", "measure systems with this word in their name, such as nats or kafka, and Quorate")
	rounds := flag.Int("rounds", 3, "how often all is measured; the medians are shown")
	duration := flag.Duration("duration", 10*time.Second, "how long each workload is measured")
	warmUp := flag.Duration("warm-up", 5*time.Second, "how long each workload runs before it is measured")
	logs := flag.Int("logs", 8, "streams, queues and partitions that the peers divide the conversations among")
	data := flag.String("data", "", "where a temporary folder for all data is made: a disk (default: the system's)")
	jsonFile := flag.String("json", "", "also write all figures to this file")
	page := flag.String("page", "", "also write the tables to this file")
	flag.Parse()
	if *quorate == "" || flag.NArg() > 0 || *logs < 1 || *rounds < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	settings := Settings{MessageBytes: 256, Conversations: 64, Logs: *logs, WarmUp: *warmUp, Duration: *duration}
	report, err := run(ctx, settings, *quorate, *data, *only, *rounds)
	if err == nil && *jsonFile != "" {
		var text []byte
		if text, err = json.MarshalIndent(report, "", "  "); err == nil {
			err = os.WriteFile(*jsonFile, append(text, '\n'), 0o644)
		}
	}
	if err == nil && *page != "" {
		err = os.WriteFile(*page, []byte(pageHead+report.Tables()), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
	fmt.Print(report.Tables())
}

const pageHead = `# Beside the peers

Made by ` + "`make bench-peers`" + `, which writes this file; peers/README.md says which settings the systems have and why.
Quorate's three groups were chosen by measurement on the machine of docs/performance.md (a cluster of three has twelve
by default); the number of streams, queues and partitions of the peers was not. Kafka runs for 30 seconds before it is
measured, so that its JVMs are warm, the others for 5.

`

// run measures everything; whatever happens, nothing is left behind.
func run(ctx context.Context, settings Settings, quorate, data, only string, rounds int) (*Report, error) {
	env, err := NewEnv(settings, quorate, data)
	if err != nil {
		return nil, err
	}
	defer env.Remove()
	report := NewReport(settings, rounds)
	var ready []System
	for _, system := range systems {
		if system.Name != quorateName && !strings.Contains(strings.ToLower(system.Name), strings.ToLower(only)) {
			continue
		}
		fmt.Fprintf(os.Stderr, "preparing %s\n", system.Name)
		version, err := system.Prepare(ctx, env)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("interrupted: nothing is reported")
		}
		report.Add(system, version)
		if err != nil {
			report.NotRun(system, err)
			continue
		}
		ready = append(ready, system)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("interrupted: nothing is reported")
		}
	}
	for round := 1; round <= rounds; round++ {
		for _, system := range ready {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round, rounds, system.Name)
			for _, workload := range workloads {
				figure, err := measure(ctx, env, system, workload)
				// What was ended from outside has failed as well, and says nothing.
				if ctx.Err() != nil {
					return nil, fmt.Errorf("interrupted: nothing is reported")
				}
				if err != nil {
					fmt.Fprintf(os.Stderr, "  %s: %v\n", workload.Name, err)
					report.Failed(system, workload, err)
					continue
				}
				fmt.Fprintf(os.Stderr, "  %s: %s\n", workload.Name, figure)
				report.Note(system, workload, figure)
			}
		}
	}
	return report, nil
}

// measure runs a workload on a cluster of its own: none works on what another has left.
func measure(ctx context.Context, env *Env, system System, workload Workload) (Figure, error) {
	if err := env.NewFolder(); err != nil {
		return Figure{}, err
	}
	started, cancel := context.WithTimeout(ctx, startTimeout)
	cluster, err := system.Start(started, env)
	cancel()
	if err != nil {
		return Figure{}, fmt.Errorf("it did not start: %w", err)
	}
	defer cluster.Stop()
	return cluster.Measure(ctx, workload)
}

var systems = []System{
	quorateSystem,
	natsSystem("NATS JetStream", "no: synced every 2 minutes", ""),
	natsSystem("NATS JetStream, sync_interval: always", "yes", "always"),
	etcdSystem,
	rabbitSystem,
	kafkaSystem("Kafka, acks=all", "no: in memory of the replicas in sync", false),
	kafkaSystem("Kafka, acks=all, flush.messages=1", "yes", true),
}
