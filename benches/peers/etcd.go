package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// etcdSystem puts each message under a key of its own, below that of its conversation.
var etcdSystem = System{
	Name:    "etcd",
	Durable: "yes",
	Prepare: func(ctx context.Context, env *Env) (string, error) {
		return env.GoTool(ctx, "go.etcd.io/etcd/server/v3", "etcd")
	},
	Start: func(ctx context.Context, env *Env) (Cluster, error) {
		cluster := &etcdCluster{}
		if err := cluster.start(ctx, env); err != nil {
			cluster.Stop()
			return nil, err
		}
		return Driven{cluster, env.Settings}, nil
	},
}

type etcdCluster struct {
	Nodes
	endpoints []string
	next      atomic.Uint64
}

func (c *etcdCluster) start(ctx context.Context, env *Env) error {
	ports, err := Ports(2 * nodes)
	if err != nil {
		return err
	}
	url := func(port int) string { return "http://" + address(port) }
	var members []string
	for node := range nodes {
		members = append(members, fmt.Sprintf("etcd%d=%s", node+1, url(ports[nodes+node])))
	}
	for node := range nodes {
		name := fmt.Sprintf("etcd%d", node+1)
		client, peer := url(ports[node]), url(ports[nodes+node])
		command := exec.Command(filepath.Join(env.Programs(), "etcd"),
			"--name", name, "--data-dir", filepath.Join(env.Folder, name),
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(members, ","), "--initial-cluster-state", "new",
			// The default is 2 GiB, which a long run would fill.
			"--quota-backend-bytes", "8589934592", "--log-level", "error")
		if err := c.Start(env, name, command); err != nil {
			return err
		}
		c.endpoints = append(c.endpoints, client)
	}
	return c.Wait(ctx, "a leader", func() error {
		producer, err := c.Connect(ctx, 0)
		if err != nil {
			return err
		}
		defer producer.Close()
		once, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return producer.Append(once, 0, []byte("ready?"))
	})
}

func (c *etcdCluster) Connect(_ context.Context, producer int) (Producer, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{c.endpoints[producer%nodes]}})
	if err != nil {
		return nil, err
	}
	return &etcdProducer{client, &c.next}, nil
}

type etcdProducer struct {
	client *clientv3.Client
	next   *atomic.Uint64
}

// Append is one Put; those in flight share the client's connection.
func (p *etcdProducer) Append(ctx context.Context, conversation int, payload []byte) error {
	key := fmt.Sprintf("bench/%d/%016x", conversation, p.next.Add(1))
	_, err := p.client.Put(ctx, key, string(payload))
	return err
}

func (p *etcdProducer) Close() { p.client.Close() }
