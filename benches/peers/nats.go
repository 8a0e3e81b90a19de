package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsSystem keeps streams in files, three replicas each.
func natsSystem(name, durable, syncInterval string) System {
	return System{
		Name:    name,
		Durable: durable,
		Prepare: func(ctx context.Context, env *Env) (string, error) {
			return env.GoTool(ctx, "github.com/nats-io/nats-server/v2", "nats-server")
		},
		Start: func(ctx context.Context, env *Env) (Cluster, error) {
			cluster := &natsCluster{logs: env.Settings.Logs}
			if err := cluster.start(ctx, env, syncInterval); err != nil {
				cluster.Stop()
				return nil, err
			}
			return Driven{cluster, env.Settings}, nil
		},
	}
}

type natsCluster struct {
	Nodes
	logs    int
	servers []string
}

func (c *natsCluster) start(ctx context.Context, env *Env, syncInterval string) error {
	ports, err := Ports(2 * nodes)
	if err != nil {
		return err
	}
	var routes []string
	for _, port := range ports[nodes:] {
		routes = append(routes, "nats://"+address(port))
	}
	sync := ""
	if syncInterval != "" {
		sync = "sync_interval: " + syncInterval
	}
	for node := range nodes {
		name := fmt.Sprintf("nats%d", node+1)
		config, err := env.Write(name+".conf", fmt.Sprintf(`
server_name: %s
listen: "%s"
jetstream { store_dir: "%s", %s }
cluster { name: bench, listen: "%s", routes: [%s] }
`, name, address(ports[node]), filepath.Join(env.Folder, name), sync, address(ports[nodes+node]),
			strings.Join(routes, ", ")))
		if err != nil {
			return err
		}
		program := filepath.Join(env.Programs(), "nats-server")
		if err := c.Start(env, name, exec.Command(program, "-c", config)); err != nil {
			return err
		}
		c.servers = append(c.servers, "nats://"+address(ports[node]))
	}
	return c.Wait(ctx, "the streams", func() error {
		connection, err := nats.Connect(c.servers[0])
		if err != nil {
			return err
		}
		defer connection.Close()
		js, err := jetstream.New(connection)
		if err != nil {
			return err
		}
		// Before there is a leader a request may get no answer at all.
		once, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		for number := range c.logs {
			_, err := js.CreateOrUpdateStream(once, jetstream.StreamConfig{
				Name:     fmt.Sprintf("S%d", number),
				Subjects: []string{fmt.Sprintf("bench.%d.*", number)},
				Storage:  jetstream.FileStorage,
				Replicas: nodes,
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *natsCluster) Connect(_ context.Context, producer int) (Producer, error) {
	connection, err := nats.Connect(c.servers[producer%nodes])
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(connection, jetstream.WithPublishAsyncMaxPending(1024))
	if err != nil {
		connection.Close()
		return nil, err
	}
	return &natsProducer{connection, js, c.logs}, nil
}

type natsProducer struct {
	connection *nats.Conn
	js         jetstream.JetStream
	logs       int
}

// Append publishes without waiting for others in flight: that is how this client pipelines.
func (p *natsProducer) Append(ctx context.Context, conversation int, payload []byte) error {
	subject := fmt.Sprintf("bench.%d.%d", conversation%p.logs, conversation)
	ack, err := p.js.PublishAsync(subject, payload)
	if err != nil {
		return err
	}
	select {
	case <-ack.Ok():
		return nil
	case err := <-ack.Err():
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *natsProducer) Close() { p.connection.Close() }
