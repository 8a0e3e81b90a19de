package main

import (
	"errors"
	"strings"
	"testing"
)

// reported has a full Quorate, and a peer with so many of three rounds.
func reported(rounds int) *Report {
	report := NewReport(Settings{}, 3)
	ours, theirs := System{Name: quorateName}, System{Name: "peer"}
	report.Add(ours, "1")
	report.Add(theirs, "2")
	for range 3 {
		report.Note(ours, workloads[1], Figure{AppendsPerSecond: 300})
	}
	for range rounds {
		report.Note(theirs, workloads[1], Figure{AppendsPerSecond: 100})
	}
	report.Failed(theirs, workloads[0], errors.New("a | b"))
	return report
}

func TestRatioOfAllRounds(t *testing.T) {
	text := reported(3).Tables()
	if !strings.Contains(text, "| peer | 2 |  | 100 | 0.00 | 0.00 | 3.00 × |") {
		t.Error(text)
	}
}

func TestNoRatioWhereARoundIsMissing(t *testing.T) {
	report := reported(2)
	report.Failed(System{Name: "peer"}, workloads[1], errors.New("it hung"))
	text := report.Tables()
	for _, part := range []string{
		"| peer | 2 |  | 100 | 0.00 | 0.00 | – (2 of 3 rounds) |",
		"peer failed in a round of " + workloads[1].Name + ": it hung",
		"| peer | 2 |  | not run: a \\| b | | | |",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, one := range []struct {
		of   []float64
		want float64
	}{{[]float64{5}, 5}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 2}, 2}} {
		if got := median(one.of); got != one.want {
			t.Errorf("median of %v is %v", one.of, got)
		}
	}
}
