package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Figure is what a workload reached. Only acknowledged appends count.
type Figure struct {
	AppendsPerSecond float64 `json:"appends_per_second"`
	P50us            float64 `json:"latency_p50_us"`
	P99us            float64 `json:"latency_p99_us"`
}

func (f Figure) String() string {
	return fmt.Sprintf("%.0f/s, p50 %.2f ms, p99 %.2f ms", f.AppendsPerSecond, f.P50us/1e3, f.P99us/1e3)
}

// Peer is a running system that the closed loop below can append to.
type Peer interface {
	// Connect gives a producer connections of its own.
	Connect(ctx context.Context, producer int) (Producer, error)
	// Stop ends its processes.
	Stop()
}

// Producer appends; Append is called by as many goroutines at a time as may be in flight.
type Producer interface {
	// Append returns when the message is acknowledged.
	Append(ctx context.Context, conversation int, payload []byte) error
	Close()
}

// Driven is a peer with the producers of this program.
type Driven struct {
	Peer
	Settings Settings
}

// poolBytes are random bytes that payloads are cut from.
const poolBytes = 8 << 20

// spread scatters message numbers over the pool (Knuth's multiplicative hash).
const spread = 0x9E37_79B9_7F4A_7C15

// Measure runs a closed loop: each place in flight appends again when it has its acknowledgement.
func (d Driven) Measure(ctx context.Context, workload Workload) (Figure, error) {
	settings := d.Settings
	pool := make([]byte, poolBytes)
	if _, err := rand.Read(pool); err != nil {
		return Figure{}, err
	}
	var producers []Producer
	defer func() {
		for _, producer := range producers {
			producer.Close()
		}
	}()
	for number := range workload.Producers {
		producer, err := d.Connect(ctx, number)
		if err != nil {
			return Figure{}, err
		}
		producers = append(producers, producer)
	}
	from := time.Now().Add(settings.WarmUp)
	until := from.Add(settings.Duration)
	// An append that takes so long has failed: no figure is made of what hangs.
	ctx, cancel := context.WithDeadline(ctx, until.Add(30*time.Second))
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var next atomic.Uint64
	var all sync.WaitGroup
	latencies := make([][]time.Duration, workload.Producers*workload.InFlight)
	for place := range latencies {
		producer := producers[place%workload.Producers]
		all.Go(func() {
			for {
				began := time.Now()
				if began.After(until) {
					return
				}
				number := next.Add(1)
				at := (number * spread >> 32) % uint64(poolBytes-settings.MessageBytes)
				payload := pool[at:][:settings.MessageBytes:settings.MessageBytes]
				conversation := int(number % uint64(settings.Conversations))
				if err := producer.Append(ctx, conversation, payload); err != nil {
					fail(fmt.Errorf("an append failed: %w", err))
					return
				}
				if began.After(from) {
					latencies[place] = append(latencies[place], time.Since(began))
				}
			}
		})
	}
	all.Wait()
	elapsed := time.Since(from)
	if cause := context.Cause(ctx); cause != nil {
		return Figure{}, cause
	}
	sorted := slices.Concat(latencies...)
	if len(sorted) == 0 {
		return Figure{}, fmt.Errorf("nothing was acknowledged")
	}
	slices.Sort(sorted)
	us := func(quantile float64) float64 {
		return float64(sorted[int(float64(len(sorted)-1)*quantile)].Nanoseconds()) / 1e3
	}
	return Figure{float64(len(sorted)) / elapsed.Seconds(), us(0.5), us(0.99)}, nil
}
