package main

import (
	"context"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

type saramaTransactors struct{}

type saramaTransactor struct{ producer sarama.SyncProducer }

func transactConfig(r *transactRequest) *sarama.Config {
	config := saramaConfig()
	config.Consumer.MaxWaitTime = 100 * time.Millisecond
	config.Consumer.Return.Errors = true
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	if r.IsCommitted {
		config.Consumer.IsolationLevel = sarama.ReadCommitted
	}
	return config
}

func (saramaTransactors) open(r *transactRequest) (transactor, error) {
	config := saramaConfig()
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Idempotent = true
	config.Producer.Transaction.ID = r.TransactionalID
	config.Producer.Transaction.Timeout = ms(r.TimeoutMs)
	config.Producer.Flush.Frequency = time.Millisecond
	config.Net.MaxOpenRequests = 1
	producer, err := sarama.NewSyncProducer([]string{r.Bootstrap}, config)
	return saramaTransactor{producer}, err
}

func (t saramaTransactor) begin() error { return t.producer.BeginTxn() }

func (t saramaTransactor) send(records []toRecord) error {
	messages := make([]*sarama.ProducerMessage, 0, len(records))
	for _, r := range records {
		messages = append(messages, &sarama.ProducerMessage{
			Topic: r.topic, Partition: r.partition, Value: sarama.StringEncoder(r.value),
		})
	}
	return t.producer.SendMessages(messages)
}

func (t saramaTransactor) end(commit bool) error {
	if commit {
		return t.producer.CommitTxn()
	}
	return t.producer.AbortTxn()
}

func (t saramaTransactor) close() error { return t.producer.Close() }

func (saramaTransactors) read(r *transactRequest) ([]foundRecord, error) {
	consumer, err := sarama.NewConsumer([]string{r.Bootstrap}, transactConfig(r))
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	records, failures := []foundRecord{}, make(chan error, r.Partitions)
	var mutex sync.Mutex
	for partition := range r.Partitions {
		stream, err := consumer.ConsumePartition(r.Topic, int32(partition), sarama.OffsetOldest)
		if err != nil {
			return nil, err
		}
		defer stream.AsyncClose()
		go func() {
			for {
				select {
				case one := <-stream.Messages():
					if string(one.Value) == r.Until {
						failures <- nil
						return
					}
					mutex.Lock()
					records = append(records, foundRecord{one.Partition, one.Offset, string(one.Value)})
					mutex.Unlock()
				case failed := <-stream.Errors():
					failures <- failed.Err
					return
				}
			}
		}()
	}
	for range r.Partitions {
		if failed := <-failures; failed != nil {
			err = failed
		}
	}
	return records, err
}

// saramaProcessor works on the claims of a session one after the other, with the one producer.
type saramaProcessor struct {
	request  *transactRequest
	producer saramaTransactor
	stop     context.CancelFunc
	mutex    sync.Mutex
	number   int
	finished map[int32]bool
	err      error
}

func (p *saramaProcessor) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (p *saramaProcessor) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (p *saramaProcessor) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		chunk := p.chunk(session, claim)
		if len(chunk) == 0 || !p.work(session, chunk) {
			return nil
		}
	}
}

// chunk returns what is there, up to a batch; it ends with the last message of all. None: the session is over.
func (p *saramaProcessor) chunk(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) (found []*sarama.ConsumerMessage) {
	for len(found) < p.request.Batch {
		select {
		case <-session.Context().Done():
			return nil
		case one := <-claim.Messages():
			if one == nil {
				return nil
			}
			found = append(found, one)
			if string(one.Value) == p.request.Until {
				return found
			}
		case <-time.After(20 * time.Millisecond):
			if len(found) > 0 {
				return found
			}
		}
	}
	return found
}

// work puts a chunk through, again after each abort; false: no more is to be done in this session.
func (p *saramaProcessor) work(session sarama.ConsumerGroupSession, chunk []*sarama.ConsumerMessage) bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	r, last := p.request, chunk[len(chunk)-1]
	records := []toRecord{}
	for _, one := range chunk {
		records = append(records, toRecord{topic: r.Output, partition: one.Partition, value: string(one.Value) + "+"})
	}
	for session.Context().Err() == nil {
		p.number++
		member := sarama.NewConsumerGroupMetadataFromSession(session, r.Group, nil)
		if p.err = p.producer.begin(); p.err == nil {
			p.err = p.producer.send(records)
		}
		if p.err == nil {
			p.err = p.producer.producer.AddMessageToTxnWithGroupMetadata(last, member, nil)
		}
		isHeld := p.number == r.HoldAfter
		commit := r.AbortEvery == 0 || p.number%r.AbortEvery != 0
		if p.err == nil && !isHeld {
			p.err = p.producer.end(commit)
		}
		if p.err != nil || isHeld {
			p.stop()
			return false
		}
		if commit {
			if string(last.Value) == r.Until {
				p.finished[last.Partition] = true
			}
			if len(p.finished) == r.Partitions {
				p.stop()
			}
			return true
		}
	}
	return false
}

func (l saramaTransactors) process(r *transactRequest) (bool, error) {
	opened, err := l.open(r)
	if err != nil {
		return false, err
	}
	config := transactConfig(r)
	config.Consumer.Group.Session.Timeout = ms(r.SessionTimeoutMs)
	config.Consumer.Group.Heartbeat.Interval = 300 * time.Millisecond
	config.Consumer.Group.Rebalance.Timeout = 10 * time.Second
	group, err := sarama.NewConsumerGroup([]string{r.Bootstrap}, r.Group, config)
	if err != nil {
		return false, err
	}
	go func() {
		for range group.Errors() {
		}
	}()
	ctx, cancel := soon()
	defer cancel()
	p := &saramaProcessor{request: r, producer: opened.(saramaTransactor), stop: cancel, finished: map[int32]bool{}}
	for ctx.Err() == nil {
		if err = group.Consume(ctx, []string{r.Topic}, p); err != nil && ctx.Err() == nil {
			return false, err
		}
	}
	if p.err != nil {
		return false, p.err
	}
	if p.number == r.HoldAfter {
		return true, nil
	}
	if err = group.Close(); err != nil {
		return false, err
	}
	return false, p.producer.close()
}

// firstOfSession notes what a member may say of itself, and the first message of each claim.
type firstOfSession struct {
	group   string
	stop    context.CancelFunc
	member  *sarama.ConsumerGroupMetadata
	message *sarama.ConsumerMessage
	mutex   sync.Mutex
}

func (f *firstOfSession) Setup(session sarama.ConsumerGroupSession) error {
	f.member = sarama.NewConsumerGroupMetadataFromSession(session, f.group, nil)
	return nil
}

func (f *firstOfSession) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (f *firstOfSession) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	select {
	case <-session.Context().Done():
	case one := <-claim.Messages():
		f.mutex.Lock()
		defer f.mutex.Unlock()
		f.message = one
		f.stop()
	}
	return nil
}

func (saramaTransactors) commitWhenGone(r *transactRequest, with transactor) error {
	group, err := sarama.NewConsumerGroup([]string{r.Bootstrap}, r.Group, transactConfig(r))
	if err != nil {
		return err
	}
	go func() {
		for range group.Errors() {
		}
	}()
	ctx, cancel := soon()
	defer cancel()
	seen := &firstOfSession{group: r.Group, stop: cancel}
	for ctx.Err() == nil {
		if err = group.Consume(ctx, []string{r.Topic}, seen); err != nil && ctx.Err() == nil {
			return err
		}
	}
	if err = group.Close(); err != nil {
		return err
	}
	if err = with.begin(); err != nil {
		return err
	}
	if err = with.(saramaTransactor).producer.AddMessageToTxnWithGroupMetadata(seen.message, seen.member, nil); err != nil {
		return err
	}
	return with.end(true)
}
