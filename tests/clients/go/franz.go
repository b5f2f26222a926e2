package main

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const callTimeout = 60 * time.Second

type franzGo struct{}

type franzProducer struct{ client *kgo.Client }

func (franzGo) producer(r *request) (producer, error) {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	options := []kgo.Opt{
		kgo.SeedBrokers(addresses(r.Bootstrap)...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[r.Codec]),
		kgo.ProducerBatchMaxBytes(r.MaxBytes),
		kgo.AllowAutoTopicCreation(),
	}
	if !r.Idempotent {
		options = append(options, kgo.DisableIdempotentWrite())
	}
	client, err := franzClient(r.Login, options...)
	return franzProducer{client}, err
}

func (p franzProducer) send(topic string, partition int32, records []record) ([]int64, error) {
	sent := make([]*kgo.Record, 0, len(records))
	for _, r := range records {
		one := &kgo.Record{Topic: topic, Partition: partition, Key: r.Key, Value: r.Value}
		if r.Timestamp != nil {
			one.Timestamp = time.UnixMilli(*r.Timestamp)
		}
		for _, h := range r.Headers {
			one.Headers = append(one.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		sent = append(sent, one)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := p.client.ProduceSync(ctx, sent...).FirstErr(); err != nil {
		return nil, err
	}
	offsets := make([]int64, 0, len(sent))
	for _, one := range sent {
		offsets = append(offsets, one.Offset)
	}
	return offsets, nil
}

func (p franzProducer) close() error {
	p.client.Close()
	return nil
}

type franzConsumer struct {
	client    *kgo.Client
	topic     string
	partition int32
}

func (franzGo) consumer(r *request) (consumer, error) {
	start := map[string]map[int32]kgo.Offset{r.Topic: {r.Partition: kgo.NewOffset().At(r.Offset)}}
	client, err := franzClient(
		r.Login,
		kgo.SeedBrokers(addresses(r.Bootstrap)...),
		kgo.ConsumePartitions(start),
		kgo.FetchMaxWait(time.Duration(r.MaxWaitMs)*time.Millisecond),
		kgo.MetadataMinAge(50*time.Millisecond),
	)
	return franzConsumer{client, r.Topic, r.Partition}, err
}

func (c franzConsumer) seek(offset int64) error {
	c.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{c.topic: {c.partition: {Epoch: -1, Offset: offset}}})
	return nil
}

func (c franzConsumer) read(count int, timeout time.Duration) ([]record, error) {
	records := []record{}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for len(records) < count {
		fetches := c.client.PollFetches(ctx)
		for _, failed := range fetches.Errors() {
			if errors.Is(failed.Err, context.DeadlineExceeded) {
				return records, nil
			}
			return records, failed.Err
		}
		fetches.EachRecord(func(one *kgo.Record) {
			timestamp := one.Timestamp.UnixMilli()
			r := record{Key: one.Key, Value: one.Value, Timestamp: &timestamp, Offset: one.Offset}
			for _, h := range one.Headers {
				r.Headers = append(r.Headers, header{h.Key, h.Value})
			}
			records = append(records, r)
		})
	}
	return records, nil
}

func (c franzConsumer) close() error {
	c.client.Close()
	return nil
}

// administer runs `call` with an admin client that lives as long as the call.
func administer(r *request, call func(ctx context.Context, admin *kadm.Client) error) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addresses(r.Bootstrap)...))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return call(ctx, kadm.NewClient(client))
}

func (franzGo) watermarks(r *request) (low, high int64, err error) {
	err = administer(r, func(ctx context.Context, admin *kadm.Client) error {
		starts, err := admin.ListStartOffsets(ctx, r.Topic)
		if err != nil {
			return err
		}
		ends, err := admin.ListEndOffsets(ctx, r.Topic)
		if err != nil {
			return err
		}
		start, _ := starts.Lookup(r.Topic, r.Partition)
		end, _ := ends.Lookup(r.Topic, r.Partition)
		low, high = start.Offset, end.Offset
		return errors.Join(start.Err, end.Err)
	})
	return low, high, err
}

// offsetForTime asks ListOffsetsAfterMilli, which answers with the end of the log when no record is that late; the time
// of the answer tells the two apart.
func (franzGo) offsetForTime(r *request) (offset int64, err error) {
	err = administer(r, func(ctx context.Context, admin *kadm.Client) error {
		listed, err := admin.ListOffsetsAfterMilli(ctx, r.Timestamp, r.Topic)
		if err != nil {
			return err
		}
		found, _ := listed.Lookup(r.Topic, r.Partition)
		offset = found.Offset
		if found.Timestamp < r.Timestamp {
			offset = -1
		}
		return found.Err
	})
	return offset, err
}

func (franzGo) createTopic(r *request) error {
	return administer(r, func(ctx context.Context, admin *kadm.Client) error {
		configs := map[string]*string{}
		for name, value := range r.Configs {
			configs[name] = &value
		}
		_, err := admin.CreateTopic(ctx, r.Partitions, 1, configs, r.Topic)
		return err
	})
}

func (franzGo) deleteTopic(r *request) error {
	return administer(r, func(ctx context.Context, admin *kadm.Client) error {
		_, err := admin.DeleteTopic(ctx, r.Topic)
		return err
	})
}

func (franzGo) createPartitions(r *request) error {
	return administer(r, func(ctx context.Context, admin *kadm.Client) error {
		responses, err := admin.UpdatePartitions(ctx, int(r.Partitions), r.Topic)
		if err != nil {
			return err
		}
		return responses.Error()
	})
}

func (franzGo) partitions(r *request) (count int, err error) {
	err = administer(r, func(ctx context.Context, admin *kadm.Client) error {
		topics, err := admin.ListTopics(ctx, r.Topic)
		if err != nil {
			return err
		}
		count = len(topics[r.Topic].Partitions)
		return topics.Error()
	})
	return count, err
}

func (franzGo) configs(r *request) (configs map[string]string, err error) {
	err = administer(r, func(ctx context.Context, admin *kadm.Client) error {
		described, err := admin.DescribeTopicConfigs(ctx, r.Topic)
		if err != nil {
			return err
		}
		resource, err := described.On(r.Topic, nil)
		if err != nil {
			return err
		}
		configs = map[string]string{}
		for _, config := range resource.Configs {
			configs[config.Key] = config.MaybeValue()
		}
		return resource.Err
	})
	return configs, err
}
