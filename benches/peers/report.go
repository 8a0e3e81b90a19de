package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Report is what a run found.
type Report struct {
	Machine       string    `json:"machine"`
	Date          string    `json:"date"`
	Commit        string    `json:"commit"`
	Cores         int       `json:"cores"`
	Settings      Settings  `json:"settings"`
	WarmUpSeconds float64   `json:"warm_up_seconds"`
	Seconds       float64   `json:"measured_seconds"`
	Rounds        int       `json:"rounds"`
	Systems       []*Result `json:"systems"`
}

// Result is what one system reached.
type Result struct {
	System    string   `json:"system"`
	Version   string   `json:"version,omitempty"`
	Durable   string   `json:"durable_before_acknowledgement"`
	NotRun    string   `json:"not_run,omitempty"`
	Workloads []*Cases `json:"workloads"`
}

// Cases are the rounds of a workload.
type Cases struct {
	Workload
	// Median is that of the rounds, each figure by itself.
	Median Figure   `json:"median"`
	Rounds []Figure `json:"rounds"`
	// Failed is why the last round without a figure has none.
	Failed string `json:"failed,omitempty"`
	// Ratio is Quorate's appends a second divided by this system's, if neither lacks a round.
	Ratio float64 `json:"quorate_appends_per_second_ratio,omitempty"`
}

// NewReport is one without results.
func NewReport(settings Settings, rounds int) *Report {
	return &Report{
		Machine:       machine(),
		Date:          time.Now().UTC().Format(time.DateOnly),
		Commit:        commit(),
		Cores:         runtime.NumCPU(),
		Settings:      settings,
		WarmUpSeconds: settings.WarmUp.Seconds(),
		Seconds:       settings.Duration.Seconds(),
		Rounds:        rounds,
	}
}

// Add makes the row of a system.
func (r *Report) Add(system System, version string) {
	result := &Result{System: system.Name, Version: version, Durable: system.Durable}
	for _, workload := range workloads {
		result.Workloads = append(result.Workloads, &Cases{Workload: workload})
	}
	r.Systems = append(r.Systems, result)
}

// NotRun notes why a system has no figures.
func (r *Report) NotRun(system System, why error) {
	r.of(system.Name).NotRun = why.Error()
}

// Failed notes why a workload has no figure of a round.
func (r *Report) Failed(system System, workload Workload, why error) {
	r.of(system.Name).of(workload).Failed = why.Error()
}

// Note adds a figure.
func (r *Report) Note(system System, workload Workload, figure Figure) {
	cases := r.of(system.Name).of(workload)
	cases.Rounds = append(cases.Rounds, figure)
	of := func(pick func(Figure) float64) float64 {
		var values []float64
		for _, round := range cases.Rounds {
			values = append(values, pick(round))
		}
		return median(values)
	}
	cases.Median = Figure{
		of(func(f Figure) float64 { return f.AppendsPerSecond }),
		of(func(f Figure) float64 { return f.P50us }),
		of(func(f Figure) float64 { return f.P99us }),
	}
	for _, result := range r.Systems {
		ours, theirs := r.of(quorateName).of(workload), result.of(workload)
		if len(ours.Rounds) == r.Rounds && len(theirs.Rounds) == r.Rounds {
			theirs.Ratio = ours.Median.AppendsPerSecond / theirs.Median.AppendsPerSecond
		}
	}
}

// median of two in the middle is what lies between them.
func median(values []float64) float64 {
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

func (r *Report) of(system string) *Result {
	at := slices.IndexFunc(r.Systems, func(result *Result) bool { return result.System == system })
	return r.Systems[at]
}

func (r *Result) of(workload Workload) *Cases {
	at := slices.IndexFunc(r.Workloads, func(cases *Cases) bool { return cases.Workload == workload })
	return r.Workloads[at]
}

// Tables are one for each workload, in Markdown.
func (r *Report) Tables() string {
	out := new(strings.Builder)
	fmt.Fprintf(out, "%d-byte messages, %d conversations, %d nodes and the producers on one machine; medians of %d rounds,\n"+
		"where a row does not say that it has less. Quorate has %d groups, the peers %d streams, queues or partitions.\n\n",
		r.Settings.MessageBytes, r.Settings.Conversations, nodes, r.Rounds, groups, r.Settings.Logs)
	fmt.Fprintf(out, "- machine: %s\n- date: %s\n- commit: %s\n", r.Machine, r.Date, r.Commit)
	for _, workload := range workloads {
		fmt.Fprintf(out, "\n%s\n\n| system | version | durable before ACK | appends/s | p50 ms | p99 ms | Quorate is |\n", workload.Name)
		fmt.Fprintln(out, "|---|---|---|---|---|---|---|")
		for _, result := range r.Systems {
			cases := result.of(workload)
			if len(cases.Rounds) == 0 {
				fmt.Fprintf(out, "| %s | %s | %s | not run: %s | | | |\n", result.System, result.Version,
					result.Durable, cell(result.NotRun+cases.Failed))
				continue
			}
			median := cases.Median
			fmt.Fprintf(out, "| %s | %s | %s | %.0f | %.2f | %.2f | %s |\n", result.System, result.Version,
				result.Durable, median.AppendsPerSecond, median.P50us/1e3, median.P99us/1e3, r.ratio(cases))
		}
	}
	for _, result := range r.Systems {
		for _, cases := range result.Workloads {
			if cases.Failed != "" && len(cases.Rounds) > 0 {
				fmt.Fprintf(out, "\n%s failed in a round of %s: %s\n", result.System, cases.Name, cases.Failed)
			}
		}
	}
	return out.String()
}

// ratio is shown only between medians of all rounds.
func (r *Report) ratio(cases *Cases) string {
	switch {
	case len(cases.Rounds) < r.Rounds:
		return fmt.Sprintf("– (%d of %d rounds)", len(cases.Rounds), r.Rounds)
	case cases.Ratio == 0:
		return "–"
	default:
		return fmt.Sprintf("%.2f ×", cases.Ratio)
	}
}

// cell is a text that can stand in a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", "\\|") }
