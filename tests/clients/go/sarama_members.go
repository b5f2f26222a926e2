package main

import (
	"context"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// saramaMember does not tell of commits: the library does not say whether one was accepted.
func saramaMember(m *member) error {
	strategies := map[string]sarama.BalanceStrategy{
		"range": sarama.NewBalanceStrategyRange(), "roundrobin": sarama.NewBalanceStrategyRoundRobin(),
		"sticky": sarama.NewBalanceStrategySticky(),
	}
	config := saramaConfig()
	config.ClientID = "sarama"
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.MaxWaitTime = 100 * time.Millisecond
	config.Consumer.Return.Errors = true
	config.Consumer.Group.Session.Timeout = ms(m.SessionTimeoutMs)
	config.Consumer.Group.Heartbeat.Interval = ms(m.HeartbeatIntervalMs)
	config.Consumer.Group.Rebalance.Timeout = ms(m.MaxPollIntervalMs)
	config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{strategies[m.Assignor]}
	if m.InstanceID != nil {
		config.Consumer.Group.InstanceId = *m.InstanceID
	}
	group, err := sarama.NewConsumerGroup([]string{m.Bootstrap}, m.Group, config)
	if err != nil {
		return err
	}
	go func() {
		for failed := range group.Errors() {
			m.tell("refused", map[string]any{"error": failed.Error()})
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for !m.leaving.Load() {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	}()
	for ctx.Err() == nil {
		if err = group.Consume(ctx, []string{m.Topic}, &saramaHandler{member: m}); err != nil {
			m.tell("refused", map[string]any{"error": err.Error()})
			time.Sleep(100 * time.Millisecond)
		}
	}
	return group.Close()
}

type saramaHandler struct {
	member *member
	claims []int32
	hold   sync.Mutex
}

func (h *saramaHandler) Setup(session sarama.ConsumerGroupSession) error {
	h.claims = session.Claims()[h.member.Topic]
	h.member.changeOwned(h.claims, true, session.GenerationID())
	return nil
}

func (h *saramaHandler) Cleanup(session sarama.ConsumerGroupSession) error {
	h.member.changeOwned(h.claims, false, session.GenerationID())
	return nil
}

func (h *saramaHandler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		h.hold.Lock()
		h.member.waitWhilePaused()
		h.hold.Unlock()
		select {
		case <-session.Context().Done():
			return nil
		case message, isOpen := <-claim.Messages():
			if !isOpen {
				return nil
			}
			h.member.read(message.Partition, message.Offset, message.Offset, session.GenerationID())
			session.MarkMessage(message, "")
			session.Commit()
		}
	}
}
