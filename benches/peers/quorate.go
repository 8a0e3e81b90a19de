package main

import (
	"context"
	"encoding/json"
	"os/exec"
	"strconv"
	"strings"
)

const quorateName = "Quorate"

// groups are as many as took least processor time on the machine of docs/performance.md: one for each node to lead.
const groups = nodes

// Its own generator measures it, through its own client library: `quorate bench append`, which brings up the cluster.
var quorateSystem = System{
	Name:    quorateName,
	Durable: "yes",
	Prepare: func(ctx context.Context, env *Env) (string, error) {
		version, err := env.Output(exec.CommandContext(ctx, env.Quorate, "--version"))
		return strings.TrimPrefix(version, "quorate "), err
	},
	Start: func(_ context.Context, env *Env) (Cluster, error) { return quorateCluster{env}, nil },
}

type quorateCluster struct{ env *Env }

// Stop has nothing to do: the cluster has ended with the workload.
func (c quorateCluster) Stop() {}

// Measure runs a workload: one call for each append where nothing is pipelined, sessions where it is.
func (c quorateCluster) Measure(ctx context.Context, workload Workload) (Figure, error) {
	mode := "unary"
	if workload.InFlight > 1 {
		mode = "session"
	}
	settings := c.env.Settings
	command := exec.CommandContext(ctx, c.env.Quorate, "bench", "append", "--local", "--output", "json",
		"--data", c.env.Folder, "--mode", mode, "--groups", strconv.Itoa(groups),
		"--producers", strconv.Itoa(workload.Producers),
		"--in-flight", strconv.Itoa(workload.InFlight),
		"--conversations", strconv.Itoa(settings.Conversations),
		"--size", strconv.Itoa(settings.MessageBytes),
		"--warm-up", settings.WarmUp.String(),
		"--duration", settings.Duration.String())
	text, err := c.env.Output(command)
	if err != nil {
		return Figure{}, err
	}
	var report struct {
		Result struct {
			AppendsPerSecond float64                    `json:"appends_per_second"`
			Latency          struct{ P50, P99 float64 } `json:"latency_us"`
		}
	}
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		return Figure{}, err
	}
	result := report.Result
	return Figure{result.AppendsPerSecond, result.Latency.P50, result.Latency.P99}, nil
}
