package main

import (
	"strings"
	"time"

	"github.com/IBM/sarama"
)

const terraformTopic = "terraform-orders"

// terraform asks as the Kafka provider of Terraform does when a topic is planned, made, changed and destroyed.
func terraform(s *story, bootstrap string) {
	config := sarama.NewConfig()
	config.Version = sarama.V2_7_0_0
	config.ClientID = "terraform-provider-kafka"
	config.Admin.Timeout = 20 * time.Second
	s.begin("connect")
	client, err := sarama.NewClient([]string{bootstrap}, config)
	if s.failed(err) {
		return
	}
	defer client.Close()
	supported := map[int16]int16{}
	for _, broker := range client.Brokers() {
		if err := broker.Open(config); err != nil && err != sarama.ErrAlreadyConnected {
			s.failed(err)
		}
		versions, err := broker.ApiVersions(&sarama.ApiVersionsRequest{})
		if s.failed(err) {
			return
		}
		for _, api := range versions.ApiKeys {
			supported[api.ApiKey] = api.MaxVersion
		}
	}
	for name, key := range map[string]int16{
		"DescribeConfigs": 32, "AlterConfigs": 33, "CreatePartitions": 37, "AlterPartitionReassignments": 45,
		"ListPartitionReassignments": 46,
	} {
		_, has := supported[key]
		s.say("%s %t", name, has)
	}
	controller, err := client.Controller()
	if s.failed(err) {
		return
	}
	s.begin("topics")
	s.failed(client.RefreshMetadata())
	_, err = client.Topics()
	s.failed(err)

	s.begin("create")
	value := "86400000"
	created, err := controller.CreateTopics(&sarama.CreateTopicsRequest{
		Version: 3, Timeout: 20 * time.Second,
		TopicDetails: map[string]*sarama.TopicDetail{
			terraformTopic: {NumPartitions: 2, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &value}},
		},
	})
	if !s.failed(err) {
		for name, one := range created.TopicErrors {
			s.say("%s %v", name, one.Err)
		}
	}
	settle()
	readTopic(s, client, controller, "read", supported[32])
	for _, change := range []map[string]*string{
		{"retention.ms": &value, "segment.bytes": pointer("10485760")},
		{"segment.bytes": pointer("20971520")},
		{"cleanup.policy": pointer("shred")},
	} {
		s.begin("update")
		altered, err := controller.AlterConfigs(&sarama.AlterConfigsRequest{
			Version:   1,
			Resources: []*sarama.AlterConfigsResource{{Type: sarama.TopicResource, Name: terraformTopic, ConfigEntries: change}},
		})
		if !s.failed(err) {
			for _, one := range altered.Resources {
				s.say("%s %v %s", one.Name, sarama.KError(one.ErrorCode), one.ErrorMsg)
			}
		}
		settle()
		readTopic(s, client, controller, "read after update", supported[32])
	}
	s.begin("add partitions")
	added, err := controller.CreatePartitions(&sarama.CreatePartitionsRequest{
		Version: 1, Timeout: 20 * time.Second,
		TopicPartitions: map[string]*sarama.TopicPartition{terraformTopic: {Count: 3}},
	})
	if !s.failed(err) {
		for name, one := range added.TopicPartitionErrors {
			s.say("%s %v", name, one.Err)
		}
	}
	admin, err := sarama.NewClusterAdminFromClient(client)
	if s.failed(err) {
		return
	}
	s.begin("replication")
	moves, err := admin.ListPartitionReassignments(terraformTopic, []int32{0, 1, 2})
	s.outcome("list", err)
	s.say("moves %d", len(moves))
	id := controller.ID()
	s.outcome("same replicas", admin.AlterPartitionReassignments(terraformTopic, [][]int32{{id}, {id}, {id}}))
	if err = admin.AlterPartitionReassignments(terraformTopic, [][]int32{{id, 77}, {id, 77}, {id, 77}}); err != nil {
		// The library's order of partitions is random.
		for _, part := range strings.Split(err.Error(), "[") {
			s.say("more replicas %s", part)
		}
	}
	s.begin("permissions")
	_, err = admin.ListAcls(sarama.AclFilter{
		ResourceType: sarama.AclResourceAny, ResourcePatternTypeFilter: sarama.AclPatternAny,
		PermissionType: sarama.AclPermissionAny, Operation: sarama.AclOperationAny,
	})
	s.outcome("list", err)
	s.begin("quotas")
	_, err = admin.DescribeClientQuotas(nil, false)
	s.outcome("describe", err)
	s.begin("users")
	_, err = admin.DescribeUserScramCredentials([]string{"alice"})
	s.outcome("describe", err)
	s.begin("destroy")
	deleted, err := controller.DeleteTopics(&sarama.DeleteTopicsRequest{Version: 3, Topics: []string{terraformTopic}, Timeout: 20 * time.Second})
	if !s.failed(err) {
		for name, one := range deleted.TopicErrorCodes {
			s.say("%s %v", name, one)
		}
	}
}

func pointer(value string) *string { return &value }

func readTopic(s *story, client sarama.Client, controller *sarama.Broker, step string, version int16) {
	s.begin(step)
	if s.failed(client.RefreshMetadata(terraformTopic)) {
		return
	}
	partitions, err := client.Partitions(terraformTopic)
	s.failed(err)
	for _, partition := range partitions {
		replicas, err := client.Replicas(terraformTopic, partition)
		s.failed(err)
		s.say("partition %d replicas %d", partition, len(replicas))
	}
	described, err := controller.DescribeConfigs(&sarama.DescribeConfigsRequest{
		Version: min(version, 1), Resources: []*sarama.ConfigResource{{Type: sarama.TopicResource, Name: terraformTopic}},
	})
	if s.failed(err) {
		return
	}
	for _, resource := range described.Resources {
		for _, one := range resource.Configs {
			if !one.Default && one.Source == sarama.SourceTopic {
				s.say("%s=%s", one.Name, one.Value)
			}
		}
	}
}
