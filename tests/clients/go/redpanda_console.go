package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

const consoleTopic, consoleGroup = "redpanda-orders", "redpanda-readers"

type console struct {
	*story
	ctx    context.Context
	client *kgo.Client
	admin  *kadm.Client
}

func redpandaConsole(s *story, bootstrap string) {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ClientID("redpanda-console"), kgo.RetryTimeout(10*time.Second))
	if err != nil {
		panic(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	c := &console{s, ctx, client, kadm.NewClient(client)}
	node := c.start()
	c.offers()
	c.makeTopic()
	c.topics()
	c.groups()
	c.configs(node)
	c.replicas(node)
	c.security()
	c.deletions()
}

func (c *console) start() int32 {
	c.begin("connect")
	metadata, err := kmsg.NewPtrMetadataRequest().RequestWith(c.ctx, c.client)
	if c.failed(err) {
		return -1
	}
	c.say("brokers %d controller %d", len(metadata.Brokers), metadata.ControllerID)
	c.begin("cluster")
	cluster, err := c.admin.Metadata(c.ctx)
	if !c.failed(err) {
		c.say("brokers %v controller %d", cluster.Brokers.NodeIDs(), cluster.Controller)
	}
	return metadata.ControllerID
}

// offers are the pages that the console shows: each needs some of Kafka's APIs.
func (c *console) offers() {
	c.begin("version")
	request := kmsg.NewPtrApiVersionsRequest()
	request.ClientSoftwareName, request.ClientSoftwareVersion = "RPConsole", "test"
	response, err := request.RequestWith(c.ctx, c.client)
	if c.failed(err) {
		return
	}
	versions := kversion.FromApiVersionsResponse(response)
	c.say("guess %s", versions.VersionGuess())
	c.begin("pages")
	for _, page := range []struct {
		name     string
		requests []kmsg.Request
	}{
		{"cluster config", []kmsg.Request{kmsg.NewPtrDescribeConfigsRequest()}},
		{"consumer groups", []kmsg.Request{kmsg.NewPtrDescribeGroupsRequest(), kmsg.NewPtrListGroupsRequest()}},
		{"delete records", []kmsg.Request{kmsg.NewPtrDeleteRecordsRequest()}},
		{"edit group", []kmsg.Request{kmsg.NewPtrOffsetCommitRequest()}},
		{"delete group", []kmsg.Request{kmsg.NewPtrDeleteGroupsRequest()}},
		{"delete group offsets", []kmsg.Request{kmsg.NewPtrOffsetDeleteRequest()}},
		{"reassignments", []kmsg.Request{kmsg.NewPtrListPartitionReassignmentsRequest()}},
		{"reassign", []kmsg.Request{kmsg.NewPtrIncrementalAlterConfigsRequest(), kmsg.NewPtrAlterPartitionAssignmentsRequest()}},
		{"quotas", []kmsg.Request{kmsg.NewPtrDescribeClientQuotasRequest()}},
		{"users", []kmsg.Request{kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()}},
	} {
		is := true
		for _, needed := range page.requests {
			_, has := versions.LookupMaxKeyVersion(needed.Key())
			is = is && has
		}
		c.say("%s %t", page.name, is)
	}
}

func (c *console) makeTopic() {
	c.begin("create topic")
	for _, checked := range []bool{true, false} {
		request := kmsg.NewPtrCreateTopicsRequest()
		request.ValidateOnly = checked
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = consoleTopic, 2, -1
		config := kmsg.NewCreateTopicsRequestTopicConfig()
		config.Name, config.Value = "cleanup.policy", kmsg.StringPtr("delete")
		topic.Configs = append(topic.Configs, config)
		request.Topics = append(request.Topics, topic)
		response, err := request.RequestWith(c.ctx, c.client)
		if c.failed(err) {
			return
		}
		for _, one := range response.Topics {
			c.say("%s %v %s partitions %d replicas %d", one.Topic, kerr.ErrorForCode(one.ErrorCode), text(one.ErrorMessage),
				one.NumPartitions, one.ReplicationFactor)
		}
	}
	settle()
	c.begin("produce")
	for number := 0; number < 10; number++ {
		record := &kgo.Record{Topic: consoleTopic, Key: []byte("k"), Value: fmt.Appendf(nil, "value %d", number)}
		record.Timestamp = time.UnixMilli(1577836800000 + int64(number))
		if c.failed(c.client.ProduceSync(c.ctx, record).FirstErr()) {
			return
		}
	}
}

func (c *console) topics() {
	c.begin("topics")
	metadata, err := c.admin.Metadata(c.ctx)
	if !c.failed(err) {
		for _, name := range metadata.Topics.Names() {
			if topic := metadata.Topics[name]; !topic.IsInternal {
				c.say("%s %v partitions %d", name, topic.Err, len(topic.Partitions))
			}
		}
	}
	c.begin("offsets")
	starts, err := c.admin.ListStartOffsets(c.ctx, consoleTopic)
	c.failed(err)
	ends, err := c.admin.ListEndOffsets(c.ctx, consoleTopic)
	c.failed(err)
	records := int64(0)
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(end.Topic, end.Partition)
		records += end.Offset - start.Offset
	})
	c.say("records %d", records)
	c.begin("offsets by time")
	later, err := c.admin.ListOffsetsAfterMilli(c.ctx, 1577836800005, consoleTopic)
	c.failed(err)
	later.Each(func(one kadm.ListedOffset) {
		if one.Timestamp >= 0 {
			c.say("at %d %v", one.Timestamp, one.Err)
		}
	})
	c.begin("messages")
	reader, err := kgo.NewClient(kgo.SeedBrokers(c.client.OptValue(kgo.SeedBrokers).([]string)...), kgo.ConsumeTopics(consoleTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if c.failed(err) {
		return
	}
	defer reader.Close()
	for read := 0; read < 10; {
		fetches := reader.PollFetches(c.ctx)
		if c.failed(fetches.Err()) {
			return
		}
		fetches.EachRecord(func(record *kgo.Record) {
			c.say("%s %s %d", record.Key, record.Value, record.Timestamp.UnixMilli())
			read++
		})
	}
}

func (c *console) groups() {
	offsets := kadm.Offsets{}
	offsets.AddOffset(consoleTopic, 0, 1, -1)
	offsets.AddOffset(consoleTopic, 1, 2, -1)
	c.begin("edit group")
	request := kmsg.NewPtrOffsetCommitRequest()
	request.Group, request.Generation = consoleGroup, -1
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic = consoleTopic
	if topics, err := c.admin.ListTopics(c.ctx, consoleTopic); err == nil {
		topic.TopicID = topics[consoleTopic].ID
	}
	for number := int32(0); number < 2; number++ {
		partition := kmsg.NewOffsetCommitRequestTopicPartition()
		partition.Partition, partition.Offset, partition.LeaderEpoch = number, int64(number)+1, -1
		topic.Partitions = append(topic.Partitions, partition)
	}
	request.Topics = append(request.Topics, topic)
	committed, err := request.RequestWith(c.ctx, c.client)
	if !c.failed(err) {
		for _, one := range committed.Topics {
			for _, partition := range one.Partitions {
				c.say("%d %v", partition.Partition, kerr.ErrorForCode(partition.ErrorCode))
			}
		}
	}
	settle()
	c.begin("groups")
	listed, err := c.admin.ListGroups(c.ctx)
	c.failed(err)
	described, err := c.admin.DescribeGroups(c.ctx, listed.Groups()...)
	c.failed(err)
	for _, group := range described.Sorted() {
		c.say("%s %s %s %v coordinator %d", group.Group, group.State, group.ProtocolType, group.Err, group.Coordinator.NodeID)
	}
	c.begin("group offsets")
	for _, of := range c.admin.FetchManyOffsets(c.ctx, consoleGroup) {
		c.failed(of.Err)
		of.Fetched.Each(func(one kadm.OffsetResponse) { c.say("%s %d at %d %v", one.Topic, one.Partition, one.At, one.Err) })
	}
	c.begin("lag")
	lags, err := c.admin.Lag(c.ctx, consoleGroup)
	c.failed(err)
	lags.Each(func(lag kadm.DescribedGroupLag) {
		c.say("%s %s total %d %v", lag.Group, lag.State, lag.Lag.Total(), lag.Error())
	})
}

func (c *console) configs(node int32) {
	c.begin("topic configs")
	request := kmsg.NewPtrDescribeConfigsRequest()
	request.IncludeSynonyms, request.IncludeDocumentation = true, true
	resource := kmsg.NewDescribeConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, consoleTopic
	request.Resources = append(request.Resources, resource)
	response, err := request.RequestWith(c.ctx, c.client)
	if !c.failed(err) {
		for _, one := range response.Resources {
			for _, config := range one.Configs {
				c.say("%s=%s %s type %s synonyms %d", config.Name, text(config.Value), config.Source, config.ConfigType, len(config.ConfigSynonyms))
			}
		}
	}
	c.begin("broker configs")
	brokers, err := c.admin.DescribeBrokerConfigs(c.ctx, node)
	if !c.failed(err) {
		for _, broker := range brokers {
			for _, config := range broker.Configs {
				c.say("%s=%s %s", config.Key, config.MaybeValue(), config.Source)
			}
		}
	}
	for _, change := range []struct{ name, value string }{{"retention.ms", "3600000"}, {"retention.ms", "soon"}, {"no.such.config", "1"}} {
		c.begin("alter topic config")
		alter := kmsg.NewPtrIncrementalAlterConfigsRequest()
		altered := kmsg.NewIncrementalAlterConfigsRequestResource()
		altered.ResourceType, altered.ResourceName = kmsg.ConfigResourceTypeTopic, consoleTopic
		config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		config.Name, config.Op, config.Value = change.name, kmsg.IncrementalAlterConfigOpSet, kmsg.StringPtr(change.value)
		altered.Configs = append(altered.Configs, config)
		alter.Resources = append(alter.Resources, altered)
		done, err := alter.RequestWith(c.ctx, c.client)
		if !c.failed(err) {
			for _, one := range done.Resources {
				c.say("%s %v %s", change.name, kerr.ErrorForCode(one.ErrorCode), text(one.ErrorMessage))
			}
		}
	}
}

func (c *console) replicas(node int32) {
	c.begin("log dirs of the broker")
	shards := c.client.RequestSharded(c.ctx, kmsg.NewPtrDescribeLogDirsRequest())
	for _, shard := range shards {
		if c.failed(shard.Err) {
			continue
		}
		for _, dir := range shard.Resp.(*kmsg.DescribeLogDirsResponse).Dirs {
			for _, topic := range dir.Topics {
				for _, partition := range topic.Partitions {
					if topic.Topic == consoleTopic {
						c.say("%v %d future %t", kerr.ErrorForCode(dir.ErrorCode), partition.Partition, partition.IsFuture)
					}
				}
			}
		}
	}
	c.begin("log dirs of the topic")
	described, err := c.admin.DescribeAllLogDirs(c.ctx, nil)
	c.failed(err)
	total := int64(0)
	described.Each(func(dir kadm.DescribedLogDir) {
		c.failed(dir.Err)
		total += dir.Size()
	})
	c.say("something is there %t", total > 0)
	c.begin("reassignments")
	moves, err := kmsg.NewPtrListPartitionReassignmentsRequest().RequestWith(c.ctx, c.client)
	if !c.failed(err) {
		c.say("%v topics %d", kerr.ErrorForCode(moves.ErrorCode), len(moves.Topics))
	}
	for _, to := range [][]int32{{node}, {node, 77}} {
		c.begin("reassign")
		request := kmsg.NewPtrAlterPartitionAssignmentsRequest()
		topic := kmsg.NewAlterPartitionAssignmentsRequestTopic()
		topic.Topic = consoleTopic
		partition := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
		partition.Replicas = to
		topic.Partitions = append(topic.Partitions, partition)
		request.Topics = append(request.Topics, topic)
		response, err := request.RequestWith(c.ctx, c.client)
		if c.failed(err) {
			continue
		}
		for _, one := range response.Topics {
			for _, partition := range one.Partitions {
				c.say("%d %v %s", partition.Partition, kerr.ErrorForCode(partition.ErrorCode), text(partition.ErrorMessage))
			}
		}
	}
}

func (c *console) security() {
	c.begin("permissions")
	acls := kmsg.NewPtrDescribeACLsRequest()
	acls.ResourceType, acls.ResourcePatternType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny
	acls.Operation, acls.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	response, err := acls.RequestWith(c.ctx, c.client)
	if !c.failed(err) {
		c.say("%v %s", kerr.ErrorForCode(response.ErrorCode), text(response.ErrorMessage))
	}
	c.begin("quotas")
	quotas, err := kmsg.NewPtrDescribeClientQuotasRequest().RequestWith(c.ctx, c.client)
	if !c.failed(err) {
		c.say("%v entries %d", kerr.ErrorForCode(quotas.ErrorCode), len(quotas.Entries))
	}
	c.begin("users")
	users, err := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest().RequestWith(c.ctx, c.client)
	if !c.failed(err) {
		c.say("%v users %d", kerr.ErrorForCode(users.ErrorCode), len(users.Results))
	}
	c.begin("transactions")
	transactions, err := c.admin.ListTransactions(c.ctx, nil, nil)
	c.failed(err)
	c.say("transactions %d", len(transactions))
}

func (c *console) deletions() {
	c.begin("delete records")
	request := kmsg.NewPtrDeleteRecordsRequest()
	topic := kmsg.NewDeleteRecordsRequestTopic()
	topic.Topic = consoleTopic
	for number := int32(0); number < 2; number++ {
		partition := kmsg.NewDeleteRecordsRequestTopicPartition()
		partition.Partition, partition.Offset = number, -1
		topic.Partitions = append(topic.Partitions, partition)
	}
	request.Topics = append(request.Topics, topic)
	for _, shard := range c.client.RequestSharded(c.ctx, request) {
		if c.failed(shard.Err) {
			continue
		}
		for _, one := range shard.Resp.(*kmsg.DeleteRecordsResponse).Topics {
			for _, partition := range one.Partitions {
				c.say("%d %v", partition.Partition, kerr.ErrorForCode(partition.ErrorCode))
			}
		}
	}
	c.begin("add partitions")
	for _, ask := range []func(context.Context, int, ...string) (kadm.CreatePartitionsResponses, error){
		c.admin.ValidateUpdatePartitions, c.admin.UpdatePartitions,
	} {
		added, err := ask(c.ctx, 3, consoleTopic)
		c.failed(err)
		for _, one := range added.Sorted() {
			c.say("%s %v", one.Topic, one.Err)
		}
	}
	c.begin("delete group offsets")
	set := kadm.TopicsSet{}
	set.Add(consoleTopic, 0)
	deleted, err := c.admin.DeleteOffsets(c.ctx, consoleGroup, set)
	c.failed(err)
	deleted.EachError(func(topic string, partition int32, err error) { c.say("%s %d %v", topic, partition, err) })
	c.begin("delete group")
	groups, err := c.admin.DeleteGroups(c.ctx, consoleGroup)
	c.failed(err)
	for _, one := range groups.Sorted() {
		c.say("%s %v", one.Group, one.Err)
	}
	c.begin("delete topic")
	topics, err := c.admin.DeleteTopics(c.ctx, consoleTopic)
	c.failed(err)
	for _, one := range topics.Sorted() {
		c.say("%s %v", one.Topic, one.Err)
	}
}
