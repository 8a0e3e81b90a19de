package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

//go:embed kafka/pom.xml
var kafkaPom string

const (
	kafkaTopic = "bench"
	// kafkaCluster is any id in the form that Kafka wants: 16 bytes in base64.
	kafkaCluster = "cXVvcmF0ZS1iZW5jaGVzMQ"
	// kafkaWarmUp is at least how long a workload runs before it is measured: JVMs compile what runs often.
	kafkaWarmUp = 30 * time.Second
)

// kafkaSystem has three nodes that are controllers and brokers at once, and one topic.
func kafkaSystem(name, durable string, flush bool) System {
	return System{
		Name:    name,
		Durable: durable,
		Prepare: func(ctx context.Context, env *Env) (string, error) {
			if err := installKafka(ctx, env); err != nil {
				return "", err
			}
			jars, err := filepath.Glob(filepath.Join(kafkaLibraries(env), "kafka-clients-*.jar"))
			if err != nil || len(jars) != 1 {
				return "", fmt.Errorf("Maven did not bring Kafka: %v, %w", jars, err)
			}
			name := strings.TrimSuffix(filepath.Base(jars[0]), ".jar")
			return strings.TrimPrefix(name, "kafka-clients-"), nil
		},
		Start: func(ctx context.Context, env *Env) (Cluster, error) {
			cluster := &kafkaNodes{logs: env.Settings.Logs}
			if err := cluster.start(ctx, env, flush); err != nil {
				cluster.Stop()
				return nil, err
			}
			settings := env.Settings
			settings.WarmUp = max(settings.WarmUp, kafkaWarmUp)
			return Driven{cluster, settings}, nil
		},
	}
}

func installKafka(ctx context.Context, env *Env) error {
	if _, err := need("java", "default-jre-headless"); err != nil {
		return err
	}
	if _, err := need("mvn", "maven"); err != nil {
		return err
	}
	if _, err := os.Stat(kafkaLibraries(env)); err == nil {
		return nil
	}
	pom := filepath.Join(env.Programs(), "pom.xml")
	if err := os.MkdirAll(env.Programs(), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(pom, []byte(kafkaPom), 0o644); err != nil {
		return err
	}
	_, err := env.Output(exec.CommandContext(ctx, "mvn", "--quiet", "--batch-mode", "--file", pom,
		"dependency:copy-dependencies", "-DoutputDirectory="+kafkaLibraries(env)))
	return err
}

func kafkaLibraries(env *Env) string { return filepath.Join(env.Programs(), "kafka") }

type kafkaNodes struct {
	Nodes
	logs    int
	brokers []string
}

func (c *kafkaNodes) start(ctx context.Context, env *Env, flush bool) error {
	ports, err := Ports(2 * nodes)
	if err != nil {
		return err
	}
	var voters []string
	for node := range nodes {
		voters = append(voters, fmt.Sprintf("%d@%s", node+1, address(ports[nodes+node])))
	}
	java := func(arguments ...string) *exec.Cmd {
		classes := filepath.Join(kafkaLibraries(env), "*")
		// A heap for three nodes on one machine; otherwise what Kafka's own start script sets.
		settings := []string{"-Xmx1G", "-Xms1G", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
			"-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-cp", classes}
		return exec.Command("java", append(settings, arguments...)...)
	}
	for node := range nodes {
		name := fmt.Sprintf("kafka%d", node+1)
		config := strings.Join([]string{
			"process.roles=broker,controller",
			fmt.Sprintf("node.id=%d", node+1),
			"controller.quorum.voters=" + strings.Join(voters, ","),
			"listeners=PLAINTEXT://" + address(ports[node]) + ",CONTROLLER://" + address(ports[nodes+node]),
			"advertised.listeners=PLAINTEXT://" + address(ports[node]),
			"controller.listener.names=CONTROLLER",
			"listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
			"log.dirs=" + filepath.Join(env.Folder, name),
			"offsets.topic.replication.factor=3",
			"",
		}, "\n")
		path, err := env.Write(name+".properties", config)
		if err != nil {
			return err
		}
		if _, err := env.Output(java("kafka.tools.StorageTool", "format", "-t", kafkaCluster, "-c", path)); err != nil {
			return err
		}
		if err := c.Start(env, name, java("kafka.Kafka", path)); err != nil {
			return err
		}
		c.brokers = append(c.brokers, address(ports[node]))
	}
	return c.Wait(ctx, "the brokers", func() error { return c.createTopic(ctx, flush) })
}

func (c *kafkaNodes) createTopic(ctx context.Context, flush bool) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(c.brokers...))
	if err != nil {
		return err
	}
	defer client.Close()
	once, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	admin := kadm.NewClient(client)
	brokers, err := admin.ListBrokers(once)
	if err != nil {
		return err
	}
	if len(brokers) < nodes {
		return fmt.Errorf("%d of %d brokers are there", len(brokers), nodes)
	}
	value := func(text string) *string { return &text }
	configs := map[string]*string{"min.insync.replicas": value("2")}
	if flush {
		configs["flush.messages"] = value("1")
	}
	response, err := admin.CreateTopic(once, int32(c.logs), nodes, configs, kafkaTopic)
	if err != nil {
		return err
	}
	return response.Err
}

func (c *kafkaNodes) Connect(context.Context, int) (Producer, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(c.brokers...),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		// Nobody waits for company: batches are what gathers while others are in flight.
		kgo.ProducerLinger(0),
		// Random bytes: trying would only cost.
		kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		return nil, err
	}
	return &kafkaProducer{client, c.logs}, nil
}

type kafkaProducer struct {
	client *kgo.Client
	logs   int
}

// Append produces one record with acks=all, idempotent as this client and Kafka's own are by default.
func (p *kafkaProducer) Append(ctx context.Context, conversation int, payload []byte) error {
	record := &kgo.Record{Topic: kafkaTopic, Partition: int32(conversation % p.logs), Value: payload}
	return p.client.ProduceSync(ctx, record).FirstErr()
}

func (p *kafkaProducer) Close() { p.client.Close() }
