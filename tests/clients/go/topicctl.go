package main

import (
	"context"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
)

const topicctlTopic = "topicctl-orders"

// topicctl asks as segmentio's topicctl does when it applies the description of a topic.
func topicctl(s *story, bootstrap string) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	client := &kafka.Client{Addr: kafka.TCP(bootstrap), Timeout: 20 * time.Second}
	s.begin("features")
	versions, err := client.ApiVersions(ctx, &kafka.ApiVersionsRequest{})
	if s.failed(err) {
		return
	}
	names := map[string]bool{}
	for _, api := range versions.ApiKeys {
		names[api.ApiName] = true
	}
	for feature, needed := range map[string]string{
		"reads": "DescribeConfigs", "applies": "ListPartitionReassignments", "dynamic broker configs": "AlterClientQuotas",
		"permissions": "DescribeAcls", "users": "DescribeUserScramCredentials",
	} {
		s.say("%s %t", feature, names[needed])
	}
	s.begin("brokers")
	metadata, err := client.Metadata(ctx, &kafka.MetadataRequest{})
	if s.failed(err) {
		return
	}
	s.say("controller %d brokers %d", metadata.Controller.ID, len(metadata.Brokers))
	for _, broker := range metadata.Brokers {
		topicctlConfigs(ctx, s, client, kafka.ResourceTypeBroker, strconv.Itoa(broker.ID))
	}
	s.begin("not there yet")
	missing, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topicctlTopic}})
	if !s.failed(err) {
		s.say("%v", missing.Topics[0].Error)
	}
	s.begin("create")
	created, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{
		Topic: topicctlTopic, NumPartitions: 2, ReplicationFactor: 1,
		ConfigEntries: []kafka.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: "86400000"}},
	}}})
	if !s.failed(err) {
		for name, err := range created.Errors {
			s.outcome(name, err)
		}
	}
	topicctlTopicIs(ctx, s, client)
	for _, change := range []kafka.IncrementalAlterConfigsRequestConfig{
		{Name: "retention.ms", Value: "3600000", ConfigOperation: kafka.ConfigOperationSet},
		{Name: "retention.ms", ConfigOperation: kafka.ConfigOperationDelete},
		{Name: "retention.ms", Value: "soon", ConfigOperation: kafka.ConfigOperationSet},
		{Name: "leader.replication.throttled.replicas", Value: "0:1", ConfigOperation: kafka.ConfigOperationSet},
	} {
		s.begin("update topic config")
		topicctlAlter(ctx, s, client, kafka.ResourceTypeTopic, topicctlTopic, change)
		topicctlTopicIs(ctx, s, client)
	}
	s.begin("throttle the broker")
	node := metadata.Controller.ID
	for _, operation := range []kafka.ConfigOperation{kafka.ConfigOperationSet, kafka.ConfigOperationDelete} {
		topicctlAlter(ctx, s, client, kafka.ResourceTypeBroker, strconv.Itoa(node), kafka.IncrementalAlterConfigsRequestConfig{
			Name: "leader.replication.throttled.rate", Value: "1000000", ConfigOperation: operation,
		})
	}
	for _, to := range [][]int{{node}, {77}} {
		s.begin("assign partitions")
		moved, err := client.AlterPartitionReassignments(ctx, &kafka.AlterPartitionReassignmentsRequest{
			Topic: topicctlTopic, Timeout: 10 * time.Second,
			Assignments: []kafka.AlterPartitionReassignmentsRequestAssignment{{Topic: topicctlTopic, PartitionID: 0, BrokerIDs: to}},
		})
		if !s.failed(err) {
			s.outcome("all", moved.Error)
			for _, one := range moved.PartitionResults {
				s.outcome(strconv.Itoa(one.PartitionID), one.Error)
			}
		}
	}
	s.begin("moves")
	moves, err := client.ListPartitionReassignments(ctx, &kafka.ListPartitionReassignmentsRequest{
		Topics: map[string]kafka.ListPartitionReassignmentsRequestTopic{topicctlTopic: {PartitionIndexes: []int{0, 1}}},
	})
	if !s.failed(err) {
		s.say("moves %d", len(moves.Topics))
	}
	topicctlTail(ctx, s, bootstrap)
	s.begin("add partitions")
	grown, err := client.CreatePartitions(ctx, &kafka.CreatePartitionsRequest{Topics: []kafka.TopicPartitionsConfig{{
		Name: topicctlTopic, Count: 3,
		TopicPartitionAssignments: []kafka.TopicPartitionAssignment{{BrokerIDs: []int32{int32(node)}}},
	}}})
	if !s.failed(err) {
		for name, err := range grown.Errors {
			s.outcome(name, err)
		}
	}
	s.begin("elect leaders")
	elected, err := client.ElectLeaders(ctx, &kafka.ElectLeadersRequest{Topic: topicctlTopic, Partitions: []int{0, 1}, Timeout: 10 * time.Second})
	if !s.failed(err) {
		s.outcome("all", elected.Error)
		for _, one := range elected.PartitionResults {
			s.outcome(strconv.Itoa(one.Partition), one.Error)
		}
	}
	s.begin("permissions")
	acls, err := client.DescribeACLs(ctx, &kafka.DescribeACLsRequest{Filter: kafka.ACLFilter{
		ResourceTypeFilter: kafka.ResourceTypeAny, ResourcePatternTypeFilter: kafka.PatternTypeAny,
		Operation: kafka.ACLOperationTypeAny, PermissionType: kafka.ACLPermissionTypeAny,
	}})
	if !s.failed(err) {
		s.outcome("list", acls.Error)
	}
	s.begin("users")
	users, err := client.DescribeUserScramCredentials(ctx, &kafka.DescribeUserScramCredentialsRequest{})
	if !s.failed(err) {
		s.outcome("list", users.Error)
	}
	s.begin("delete")
	deleted, err := client.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{topicctlTopic}})
	if !s.failed(err) {
		for name, err := range deleted.Errors {
			s.outcome(name, err)
		}
	}
}

func topicctlAlter(
	ctx context.Context, s *story, client *kafka.Client, kind kafka.ResourceType, name string,
	change kafka.IncrementalAlterConfigsRequestConfig,
) {
	altered, err := client.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{
		Resources: []kafka.IncrementalAlterConfigsRequestResource{{
			ResourceType: kind, ResourceName: name, Configs: []kafka.IncrementalAlterConfigsRequestConfig{change},
		}},
	})
	if !s.failed(err) {
		for _, one := range altered.Resources {
			s.outcome(one.ResourceName, one.Error)
		}
	}
}

func topicctlTopicIs(ctx context.Context, s *story, client *kafka.Client) {
	settle()
	metadata, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topicctlTopic}})
	if s.failed(err) {
		return
	}
	for _, topic := range metadata.Topics {
		for _, partition := range topic.Partitions {
			s.say("partition %d leader %d replicas %d isr %d", partition.ID, partition.Leader.ID, len(partition.Replicas), len(partition.Isr))
		}
	}
	topicctlConfigs(ctx, s, client, kafka.ResourceTypeTopic, topicctlTopic)
}

// topicctlConfigs tells what is set for the topic or broker itself: its source is neither a default nor a file.
func topicctlConfigs(ctx context.Context, s *story, client *kafka.Client, kind kafka.ResourceType, name string) {
	const static, byDefault = 4, 5
	described, err := client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{
		Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kind, ResourceName: name}},
	})
	if s.failed(err) {
		return
	}
	for _, resource := range described.Resources {
		for _, entry := range resource.ConfigEntries {
			if !entry.IsDefault && entry.ConfigSource != static && entry.ConfigSource != byDefault {
				s.say("%s=%s source %d", entry.ConfigName, entry.ConfigValue, entry.ConfigSource)
			}
		}
	}
}

// topicctlTail writes some records and reads them again, as `topicctl tail` and its tester do.
func topicctlTail(ctx context.Context, s *story, bootstrap string) {
	s.begin("tail")
	writer := &kafka.Writer{Addr: kafka.TCP(bootstrap), Topic: topicctlTopic, Balancer: &kafka.RoundRobin{}, BatchTimeout: 10 * time.Millisecond}
	for number := 0; number < 6; number++ {
		if s.failed(writer.WriteMessages(ctx, kafka.Message{Value: []byte(strconv.Itoa(number))})) {
			return
		}
	}
	s.failed(writer.Close())
	for partition := 0; partition < 2; partition++ {
		reader := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{bootstrap}, Topic: topicctlTopic, Partition: partition, MaxWait: 100 * time.Millisecond})
		s.failed(reader.SetOffset(kafka.FirstOffset))
		for read := 0; read < 3; read++ {
			message, err := reader.ReadMessage(ctx)
			if s.failed(err) {
				break
			}
			s.say("%d %d %s", message.Partition, message.Offset, message.Value)
		}
		s.failed(reader.Close())
	}
}
