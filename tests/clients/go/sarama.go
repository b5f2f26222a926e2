package main

import (
	"errors"
	"time"

	"github.com/IBM/sarama"
)

type saramaLibrary struct{}

func saramaConfig() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.V4_1_0_0
	config.Metadata.Retry.Max = 600
	config.Metadata.Retry.Backoff = 100 * time.Millisecond
	return config
}

type saramaProducer struct{ producer sarama.SyncProducer }

func (saramaLibrary) producer(r *request) (producer, error) {
	codecs := map[string]sarama.CompressionCodec{
		"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy,
		"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
	}
	config := saramaConfig()
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	config.Producer.Compression = codecs[r.Codec]
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.MaxMessageBytes = int(r.MaxBytes)
	config.Producer.Idempotent = r.Idempotent
	config.Producer.Retry.Max = 1000
	config.Producer.Flush.Frequency = 5 * time.Millisecond
	config.Net.MaxOpenRequests = 1
	if err := r.Login.addTo(config); err != nil {
		return nil, err
	}
	client, err := sarama.NewSyncProducer(addresses(r.Bootstrap), config)
	return saramaProducer{client}, err
}

func (p saramaProducer) send(topic string, partition int32, records []record) ([]int64, error) {
	messages := make([]*sarama.ProducerMessage, 0, len(records))
	for _, r := range records {
		message := &sarama.ProducerMessage{Topic: topic, Partition: partition}
		if r.Key != nil {
			message.Key = sarama.ByteEncoder(r.Key)
		}
		if r.Value != nil {
			message.Value = sarama.ByteEncoder(r.Value)
		}
		if r.Timestamp != nil {
			message.Timestamp = time.UnixMilli(*r.Timestamp)
		}
		for _, h := range r.Headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value})
		}
		messages = append(messages, message)
	}
	if err := p.producer.SendMessages(messages); err != nil {
		var failed sarama.ProducerErrors
		if errors.As(err, &failed) {
			return nil, failed[0].Err
		}
		return nil, err
	}
	offsets := make([]int64, 0, len(messages))
	for _, message := range messages {
		offsets = append(offsets, message.Offset)
	}
	return offsets, nil
}

func (p saramaProducer) close() error { return p.producer.Close() }

type saramaConsumer struct {
	request  request
	consumer sarama.Consumer
	stream   sarama.PartitionConsumer
}

func (saramaLibrary) consumer(r *request) (consumer, error) {
	config := saramaConfig()
	config.Consumer.MaxWaitTime = time.Duration(r.MaxWaitMs) * time.Millisecond
	config.Consumer.Return.Errors = true
	config.Net.ReadTimeout = config.Consumer.MaxWaitTime + 30*time.Second
	if err := r.Login.addTo(config); err != nil {
		return nil, err
	}
	client, err := sarama.NewConsumer(addresses(r.Bootstrap), config)
	if err != nil {
		return nil, err
	}
	stream, err := client.ConsumePartition(r.Topic, r.Partition, r.Offset)
	return &saramaConsumer{*r, client, stream}, err
}

func (c *saramaConsumer) seek(offset int64) error {
	c.stream.AsyncClose()
	for range c.stream.Messages() {
	}
	stream, err := c.consumer.ConsumePartition(c.request.Topic, c.request.Partition, offset)
	c.stream = stream
	return err
}

func (c *saramaConsumer) read(count int, timeout time.Duration) ([]record, error) {
	records := []record{}
	deadline := time.After(timeout)
	for len(records) < count {
		select {
		case message := <-c.stream.Messages():
			timestamp := message.Timestamp.UnixMilli()
			r := record{Key: message.Key, Value: message.Value, Timestamp: &timestamp, Offset: message.Offset}
			for _, h := range message.Headers {
				r.Headers = append(r.Headers, header{string(h.Key), h.Value})
			}
			records = append(records, r)
		case failed := <-c.stream.Errors():
			return records, failed.Err
		case <-deadline:
			return records, nil
		}
	}
	return records, nil
}

// close does not wait for the stream: it may be parked in a long poll.
func (c *saramaConsumer) close() error {
	c.stream.AsyncClose()
	return nil
}

func (saramaLibrary) watermarks(r *request) (low, high int64, err error) {
	low, err = saramaOffset(r, sarama.OffsetOldest)
	if err != nil {
		return 0, 0, err
	}
	high, err = saramaOffset(r, sarama.OffsetNewest)
	return low, high, err
}

func (saramaLibrary) offsetForTime(r *request) (int64, error) { return saramaOffset(r, r.Timestamp) }

func saramaOffset(r *request, time int64) (int64, error) {
	client, err := sarama.NewClient(addresses(r.Bootstrap), saramaConfig())
	if err != nil {
		return 0, err
	}
	defer func() { _ = client.Close() }()
	return client.GetOffset(r.Topic, r.Partition, time)
}

func saramaAdmin(r *request, call func(admin sarama.ClusterAdmin) error) error {
	admin, err := sarama.NewClusterAdmin(addresses(r.Bootstrap), saramaConfig())
	if err != nil {
		return err
	}
	return errors.Join(call(admin), admin.Close())
}

func (saramaLibrary) createTopic(r *request) error {
	return saramaAdmin(r, func(admin sarama.ClusterAdmin) error {
		configs := map[string]*string{}
		for name, value := range r.Configs {
			configs[name] = &value
		}
		detail := &sarama.TopicDetail{NumPartitions: r.Partitions, ReplicationFactor: 1, ConfigEntries: configs}
		return admin.CreateTopic(r.Topic, detail, false)
	})
}

func (saramaLibrary) deleteTopic(r *request) error {
	return saramaAdmin(r, func(admin sarama.ClusterAdmin) error { return admin.DeleteTopic(r.Topic) })
}

func (saramaLibrary) createPartitions(r *request) error {
	return saramaAdmin(r, func(admin sarama.ClusterAdmin) error {
		return admin.CreatePartitions(r.Topic, r.Partitions, nil, false)
	})
}

func (saramaLibrary) partitions(r *request) (count int, err error) {
	err = saramaAdmin(r, func(admin sarama.ClusterAdmin) error {
		described, err := admin.DescribeTopics([]string{r.Topic})
		if err != nil {
			return err
		}
		count = len(described[0].Partitions)
		if described[0].Err != sarama.ErrNoError {
			return described[0].Err
		}
		return nil
	})
	return count, err
}

func (saramaLibrary) configs(r *request) (configs map[string]string, err error) {
	err = saramaAdmin(r, func(admin sarama.ClusterAdmin) error {
		entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: r.Topic})
		configs = map[string]string{}
		for _, entry := range entries {
			configs[entry.Name] = entry.Value
		}
		return err
	})
	return configs, err
}
