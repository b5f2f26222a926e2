package main

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

// franzTransactors are as old as the last Kafka without transactions of version 2, or as new as the library.
type franzTransactors struct{ isOld bool }

type franzTransactor struct{ client *kgo.Client }

func (l franzTransactors) options(r *transactRequest) []kgo.Opt {
	options := []kgo.Opt{
		kgo.SeedBrokers(r.Bootstrap),
		kgo.FetchMaxWait(100 * time.Millisecond),
		kgo.MetadataMinAge(50 * time.Millisecond),
	}
	if l.isOld {
		options = append(options, kgo.MaxVersions(kversion.V3_9_0()))
	}
	if r.TransactionalID != "" {
		options = append(options,
			kgo.TransactionalID(r.TransactionalID),
			kgo.TransactionTimeout(ms(r.TimeoutMs)),
			kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	if r.IsCommitted {
		options = append(options, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	return options
}

func soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callTimeout)
}

func (l franzTransactors) open(r *transactRequest) (transactor, error) {
	client, err := kgo.NewClient(l.options(r)...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := soon()
	defer cancel()
	_, _, err = client.ProducerID(ctx)
	return franzTransactor{client}, err
}

func (t franzTransactor) begin() error { return t.client.BeginTransaction() }

func (t franzTransactor) send(records []toRecord) error {
	sent := make([]*kgo.Record, 0, len(records))
	for _, r := range records {
		sent = append(sent, &kgo.Record{Topic: r.topic, Partition: r.partition, Value: []byte(r.value)})
	}
	ctx, cancel := soon()
	defer cancel()
	return t.client.ProduceSync(ctx, sent...).FirstErr()
}

func (t franzTransactor) end(commit bool) error {
	ctx, cancel := soon()
	defer cancel()
	return t.client.EndTransaction(ctx, kgo.TransactionEndTry(commit))
}

func (t franzTransactor) close() error {
	t.client.Close()
	return nil
}

func (l franzTransactors) read(r *transactRequest) ([]foundRecord, error) {
	start := map[int32]kgo.Offset{}
	for partition := range r.Partitions {
		start[int32(partition)] = kgo.NewOffset().AtStart()
	}
	options := append(l.options(r), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.Topic: start}))
	client, err := kgo.NewClient(options...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	records := []foundRecord{}
	ctx, cancel := soon()
	defer cancel()
	for len(start) > 0 {
		fetches := client.PollFetches(ctx)
		if err = fetches.Err(); err != nil {
			return nil, err
		}
		fetches.EachRecord(func(one *kgo.Record) {
			if string(one.Value) == r.Until {
				delete(start, one.Partition)
			} else {
				records = append(records, foundRecord{one.Partition, one.Offset, string(one.Value)})
			}
		})
	}
	return records, nil
}

func (l franzTransactors) process(r *transactRequest) (bool, error) {
	options := append(l.options(r),
		kgo.ConsumerGroup(r.Group),
		kgo.ConsumeTopics(r.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(ms(r.SessionTimeoutMs)),
		kgo.HeartbeatInterval(300*time.Millisecond),
		kgo.RebalanceTimeout(10*time.Second),
		kgo.RequireStableFetchOffsets())
	if r.Protocol == "consumer" {
		options = append(options, kgo.ServerSideBalancer())
	}
	session, err := kgo.NewGroupTransactSession(options...)
	if err != nil {
		return false, err
	}
	ctx, cancel := soon()
	defer cancel()
	number, finished := 0, map[int32]bool{}
	for len(finished) < r.Partitions {
		fetches := session.PollRecords(ctx, r.Batch)
		if err = fetches.Err(); err != nil {
			return false, err
		}
		polled := fetches.Records()
		if len(polled) == 0 {
			continue
		}
		number++
		if err = session.Begin(); err != nil {
			return false, err
		}
		sent, ending := []*kgo.Record{}, []int32{}
		for _, one := range polled {
			sent = append(sent, &kgo.Record{Topic: r.Output, Partition: one.Partition, Value: append(one.Value, '+')})
			if string(one.Value) == r.Until {
				ending = append(ending, one.Partition)
			}
		}
		if err = session.ProduceSync(ctx, sent...).FirstErr(); err != nil {
			return false, err
		}
		if number == r.HoldAfter {
			return true, nil
		}
		wanted := r.AbortEvery == 0 || number%r.AbortEvery != 0
		committed, err := session.End(ctx, kgo.TransactionEndTry(wanted))
		if err != nil {
			return false, err
		}
		if committed {
			for _, partition := range ending {
				finished[partition] = true
			}
		}
	}
	session.Close()
	return false, nil
}

func (franzTransactors) commitWhenGone(*transactRequest, transactor) error {
	return errors.New("the library itself aborts when its member has lost a partition")
}
