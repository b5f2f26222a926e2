package main

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// franzMember holds back rebalances while it works on what it has read, as the library advises; so a pause does.
func franzMember(m *member) error {
	generation := func(client *kgo.Client) int32 {
		_, found := client.GroupMetadata()
		return found
	}
	gone := func(_ context.Context, client *kgo.Client, lost map[string][]int32) {
		m.changeOwned(lost[m.Topic], false, generation(client))
	}
	balancers := map[string]kgo.GroupBalancer{
		"range": kgo.RangeBalancer(), "roundrobin": kgo.RoundRobinBalancer(), "sticky": kgo.StickyBalancer(),
		"cooperative-sticky": kgo.CooperativeStickyBalancer(), "uniform": kgo.CooperativeStickyBalancer(),
	}
	options := []kgo.Opt{
		kgo.SeedBrokers(m.Bootstrap),
		kgo.ClientID(m.Member),
		kgo.ConsumerGroup(m.Group),
		kgo.ConsumeTopics(m.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.Balancers(balancers[m.Assignor]),
		kgo.SessionTimeout(ms(m.SessionTimeoutMs)),
		kgo.HeartbeatInterval(ms(m.HeartbeatIntervalMs)),
		kgo.RebalanceTimeout(ms(m.MaxPollIntervalMs)),
		kgo.FetchMaxWait(100 * time.Millisecond),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(func(_ context.Context, client *kgo.Client, got map[string][]int32) {
			m.changeOwned(got[m.Topic], true, generation(client))
		}),
		kgo.OnPartitionsRevoked(gone),
		kgo.OnPartitionsLost(gone),
	}
	if m.InstanceID != nil {
		options = append(options, kgo.InstanceID(*m.InstanceID))
	}
	if m.Protocol == "consumer" {
		options = append(options, kgo.ServerSideBalancer())
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	for !m.leaving.Load() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		fetches := client.PollRecords(ctx, 500)
		cancel()
		now := generation(client)
		last := []*kgo.Record{}
		fetches.EachPartition(func(part kgo.FetchTopicPartition) {
			if count := len(part.Records); count > 0 {
				m.read(part.Partition, part.Records[0].Offset, part.Records[count-1].Offset, now)
				last = append(last, part.Records[count-1])
			}
		})
		m.waitWhilePaused()
		if len(last) > 0 {
			ctx, cancel = context.WithTimeout(context.Background(), 10*time.Second)
			if err = client.CommitRecords(ctx, last...); err != nil {
				m.tell("refused", map[string]any{"error": err.Error()})
			} else {
				for _, record := range last {
					m.committed(record.Partition, record.Offset+1)
				}
			}
			cancel()
		}
		client.AllowRebalance()
	}
	client.CloseAllowingRebalance()
	return nil
}
