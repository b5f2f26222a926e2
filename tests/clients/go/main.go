// The Go clients behind one JSON object a line: a request on stdin, its answer on stdout.
// tests/clients/agents.py speaks to it and says what each operation takes and returns. The argument chooses the library;
// a second one makes it a home of consumer groups' members (members.go) or of transactional producers (transactors.go), or a
// program that administers the broker (admin_programs.go).
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
)

// addresses are those of a list as Kafka's own clients take it.
func addresses(bootstrap string) []string {
	return strings.Split(bootstrap, ",")
}

type header struct {
	Key   string
	Value []byte
}

// record travels as [key, value, [[header key, header value] ...], timestamp in ms or null, offset]; bytes in base64.
type record struct {
	Key, Value []byte
	Headers    []header
	Timestamp  *int64
	Offset     int64
}

func (r *record) UnmarshalJSON(data []byte) error {
	var fields []json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	if len(fields) != 4 {
		return fmt.Errorf("a record has 4 fields, not %d", len(fields))
	}
	var headers [][2]json.RawMessage
	targets := []any{&r.Key, &r.Value, &headers, &r.Timestamp}
	for i, target := range targets {
		if err := json.Unmarshal(fields[i], target); err != nil {
			return err
		}
	}
	for _, pair := range headers {
		var h header
		if err := json.Unmarshal(pair[0], &h.Key); err != nil {
			return err
		}
		if err := json.Unmarshal(pair[1], &h.Value); err != nil {
			return err
		}
		r.Headers = append(r.Headers, h)
	}
	return nil
}

func (r record) MarshalJSON() ([]byte, error) {
	headers := make([][2]any, 0, len(r.Headers))
	for _, h := range r.Headers {
		headers = append(headers, [2]any{h.Key, h.Value})
	}
	return json.Marshal([]any{r.Key, r.Value, headers, r.Timestamp, r.Offset})
}

type request struct {
	Op         string            `json:"op"`
	Bootstrap  string            `json:"bootstrap"`
	Topic      string            `json:"topic"`
	Partition  int32             `json:"partition"`
	Partitions int32             `json:"partitions"`
	Configs    map[string]string `json:"configs"`
	Handle     int               `json:"handle"`
	Codec      string            `json:"codec"`
	Idempotent bool              `json:"idempotent"`
	MaxBytes   int32             `json:"max_bytes"`
	Records    []record          `json:"records"`
	Offset     int64             `json:"offset"`
	Count      int               `json:"count"`
	TimeoutMs  int64             `json:"timeout_ms"`
	MaxWaitMs  int64             `json:"max_wait_ms"`
	Timestamp  int64             `json:"timestamp"`
	Login      *login            `json:"login"`
}

func (r *request) timeout() time.Duration { return time.Duration(r.TimeoutMs) * time.Millisecond }

type producer interface {
	send(topic string, partition int32, records []record) ([]int64, error)
	close() error
}

type consumer interface {
	seek(offset int64) error
	read(count int, timeout time.Duration) ([]record, error)
	close() error
}

type library interface {
	producer(r *request) (producer, error)
	consumer(r *request) (consumer, error)
	watermarks(r *request) (low, high int64, err error)
	offsetForTime(r *request) (int64, error)
	createTopic(r *request) error
	deleteTopic(r *request) error
	createPartitions(r *request) error
	partitions(r *request) (int, error)
	configs(r *request) (map[string]string, error)
}

type agent struct {
	library   library
	producers map[int]producer
	consumers map[int]consumer
	last      int
}

type answer map[string]any

func (a *agent) handle(r *request) (answer, error) {
	switch r.Op {
	case "open_producer":
		p, err := a.library.producer(r)
		a.last++
		a.producers[a.last] = p
		return answer{"handle": a.last}, err
	case "send":
		offsets, err := a.producers[r.Handle].send(r.Topic, r.Partition, r.Records)
		return answer{"offsets": offsets}, err
	case "close_producer":
		return answer{}, a.producers[r.Handle].close()
	case "open_consumer":
		c, err := a.library.consumer(r)
		a.last++
		a.consumers[a.last] = c
		return answer{"handle": a.last}, err
	case "seek":
		return answer{}, a.consumers[r.Handle].seek(r.Offset)
	case "read":
		records, err := a.consumers[r.Handle].read(r.Count, r.timeout())
		return answer{"records": records}, err
	case "close_consumer":
		return answer{}, a.consumers[r.Handle].close()
	case "watermarks":
		low, high, err := a.library.watermarks(r)
		return answer{"low": low, "high": high}, err
	case "offset_for_time":
		offset, err := a.library.offsetForTime(r)
		return answer{"offset": offset}, err
	case "create_topic":
		return answer{}, a.library.createTopic(r)
	case "delete_topic":
		return answer{}, a.library.deleteTopic(r)
	case "create_partitions":
		return answer{}, a.library.createPartitions(r)
	case "partitions":
		count, err := a.library.partitions(r)
		return answer{"partitions": count}, err
	case "configs":
		configs, err := a.library.configs(r)
		return answer{"configs": configs}, err
	}
	return nil, fmt.Errorf("no such operation: %s", r.Op)
}

// code is Kafka's error number for an error of either library, -1 when it is none of Kafka's.
func code(err error) int {
	var franz *kerr.Error
	if errors.As(err, &franz) {
		return int(franz.Code)
	}
	var number sarama.KError
	if errors.As(err, &number) {
		return int(number)
	}
	var topic *sarama.TopicError
	if errors.As(err, &topic) {
		return int(topic.Err)
	}
	return -1
}

func main() {
	if len(os.Args) > 2 {
		map[string]func(string){
			"members": runMembers, "transactors": runTransactors, "admin": runAdminProgram,
		}[os.Args[2]](os.Args[1])
		return
	}
	libraries := map[string]library{"franz-go": franzGo{}, "sarama": saramaLibrary{}}
	a := &agent{library: libraries[os.Args[1]], producers: map[int]producer{}, consumers: map[int]consumer{}}
	requests := bufio.NewReaderSize(os.Stdin, 1<<20)
	answers := json.NewEncoder(os.Stdout)
	for {
		line, err := requests.ReadBytes('\n')
		if err != nil {
			return
		}
		var r request
		result := answer{}
		if err = json.Unmarshal(line, &r); err == nil {
			result, err = a.handle(&r)
		}
		if err != nil {
			result = answer{"error": err.Error(), "code": code(err)}
		}
		if err = answers.Encode(result); err != nil {
			return
		}
	}
}
