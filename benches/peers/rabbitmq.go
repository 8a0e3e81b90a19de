package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	rabbitServer  = "/usr/lib/rabbitmq/bin/rabbitmq-server"
	rabbitControl = "/usr/lib/rabbitmq/bin/rabbitmqctl"
)

// rabbitSystem has quorum queues with a member on every node, and publisher confirms.
var rabbitSystem = System{
	Name:    "RabbitMQ quorum queues",
	Durable: "yes",
	Prepare: func(ctx context.Context, env *Env) (string, error) {
		if err := installRabbit(ctx, env); err != nil {
			return "", err
		}
		return env.Output(exec.CommandContext(ctx, "dpkg-query", "--show", "--showformat", "${Version}", "rabbitmq-server"))
	},
	Start: func(ctx context.Context, env *Env) (Cluster, error) {
		cluster := &rabbitCluster{env: env}
		if err := cluster.start(ctx); err != nil {
			cluster.Stop()
			return nil, err
		}
		return Driven{cluster, env.Settings}, nil
	},
}

func installRabbit(ctx context.Context, env *Env) error {
	if _, err := os.Stat(rabbitServer); err == nil {
		return nil
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("it is not installed (package rabbitmq-server), and this user is not root")
	}
	if _, err := need("apt-get", "apt"); err != nil {
		return err
	}
	install := exec.CommandContext(ctx, "apt-get", "install", "-y", "--no-install-recommends", "rabbitmq-server")
	// Runlevel 1 is maintenance, in which the package starts no service.
	install.Env = append(os.Environ(), "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive")
	_, err := env.Output(install)
	return err
}

type rabbitCluster struct {
	Nodes
	// registry is the program that nodes find each other by, which has to outlive them: they would start another.
	registry Nodes
	env      *Env
	epmd     int
	ports    []int
}

func (c *rabbitCluster) start(ctx context.Context) error {
	ports, err := Ports(2*nodes + 1)
	if err != nil {
		return err
	}
	c.epmd, c.ports = ports[2*nodes], ports[:nodes]
	// Nodes would start one themselves, for good (so they are told not to); this one ends with them.
	epmd, err := need("epmd", "erlang-base")
	if err != nil {
		return err
	}
	err = c.registry.Start(c.env, "epmd", exec.Command(epmd, "-port", strconv.Itoa(c.epmd), "-address", "127.0.0.1"))
	if err != nil {
		return err
	}
	for node := range nodes {
		if err := c.startNode(node, ports[nodes+node]); err != nil {
			return err
		}
	}
	first := nodeName(0)
	return c.Wait(ctx, "all nodes", func() error {
		once, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		control := exec.CommandContext(once, rabbitControl, "-n", first, "await_online_nodes", strconv.Itoa(nodes),
			"--timeout", "20")
		control.Env = c.environment()
		if _, err := c.env.Output(control); err != nil {
			return err
		}
		return c.declare()
	})
}

// Stop ends the nodes, and then what they find each other by.
func (c *rabbitCluster) Stop() {
	c.Nodes.Stop()
	c.registry.Stop()
}

func (c *rabbitCluster) startNode(node, distribution int) error {
	name := nodeName(node)
	folder := filepath.Join(c.env.Folder, name)
	config := fmt.Sprintf("listeners.tcp.1 = %s\n", address(c.ports[node])) +
		// 40 % of the machine by default, for each of three nodes.
		"vm_memory_high_watermark.relative = 0.2\n" +
		"cluster_formation.peer_discovery_backend = classic_config\n"
	for other := range nodes {
		config += fmt.Sprintf("cluster_formation.classic_config.nodes.%d = %s\n", other+1, nodeName(other))
	}
	path, err := c.env.Write(name+".conf", config)
	if err != nil {
		return err
	}
	plugins, err := c.env.Write(name+".plugins", "[].\n")
	if err != nil {
		return err
	}
	command := exec.Command(rabbitServer)
	command.Env = append(c.environment(),
		"RABBITMQ_NODENAME="+name,
		"RABBITMQ_DIST_PORT="+strconv.Itoa(distribution),
		"RABBITMQ_CONFIG_FILE="+path,
		"RABBITMQ_ENABLED_PLUGINS_FILE="+plugins,
		"RABBITMQ_MNESIA_BASE="+folder,
		"RABBITMQ_LOG_BASE="+folder,
		"RABBITMQ_PID_FILE="+filepath.Join(c.env.Folder, name+".pid"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}")
	return c.Start(c.env, name, command)
}

// environment of nodes and of what controls them: a cookie and a registry of names of their own.
func (c *rabbitCluster) environment() []string {
	return append(os.Environ(),
		"HOME="+c.env.Folder,
		// Otherwise a killed one leaves its memory in the working directory.
		"ERL_CRASH_DUMP_BYTES=0",
		"ERL_EPMD_PORT="+strconv.Itoa(c.epmd),
		"RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RABBITMQ_CTL_ERL_ARGS=-start_epmd false")
}

func nodeName(node int) string { return fmt.Sprintf("bench%d@localhost", node+1) }

func queueName(number int) string { return fmt.Sprintf("bench.%d", number) }

func (c *rabbitCluster) declare() error {
	connection, channel, err := c.open(0)
	if err != nil {
		return err
	}
	defer connection.Close()
	for number := range c.env.Settings.Logs {
		_, err := channel.QueueDeclare(queueName(number), true, false, false, false, amqp.Table{
			"x-queue-type":                "quorum",
			"x-quorum-initial-group-size": nodes,
			// By default all would have their leader on the node that they are declared through.
			"x-queue-leader-locator": "balanced",
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *rabbitCluster) open(node int) (*amqp.Connection, *amqp.Channel, error) {
	connection, err := amqp.Dial("amqp://guest:guest@" + address(c.ports[node]))
	if err != nil {
		return nil, nil, err
	}
	channel, err := connection.Channel()
	if err != nil {
		connection.Close()
		return nil, nil, err
	}
	return connection, channel, nil
}

func (c *rabbitCluster) Connect(_ context.Context, producer int) (Producer, error) {
	connection, channel, err := c.open(producer % nodes)
	if err != nil {
		return nil, err
	}
	if err := channel.Confirm(false); err != nil {
		connection.Close()
		return nil, err
	}
	return &rabbitProducer{connection, channel, c.env.Settings.Logs}, nil
}

type rabbitProducer struct {
	connection *amqp.Connection
	channel    *amqp.Channel
	logs       int
}

// Append publishes to the default exchange and waits for the confirm.
func (p *rabbitProducer) Append(ctx context.Context, conversation int, payload []byte) error {
	message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: payload}
	queue := queueName(conversation % p.logs)
	confirmation, err := p.channel.PublishWithDeferredConfirmWithContext(ctx, "", queue, false, false, message)
	if err != nil {
		return err
	}
	confirmed, err := confirmation.WaitContext(ctx)
	if err == nil && !confirmed {
		err = fmt.Errorf("the broker refused it")
	}
	return err
}

func (p *rabbitProducer) Close() { p.connection.Close() }
