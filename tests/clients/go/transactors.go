package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Transactional producers, and readers of what they wrote, in one process; tests/clients/transactors.py says what goes in
// and what comes out.

type transactRequest struct {
	ID               int64      `json:"id"`
	Op               string     `json:"op"`
	Producer         string     `json:"producer"`
	Bootstrap        string     `json:"bootstrap"`
	TransactionalID  string     `json:"transactional_id"`
	TimeoutMs        int64      `json:"timeout_ms"`
	Records          []toRecord `json:"records"`
	Topic            string     `json:"topic"`
	Partitions       int        `json:"partitions"`
	Until            string     `json:"until"`
	IsCommitted      bool       `json:"is_committed"`
	Group            string     `json:"group"`
	Protocol         string     `json:"protocol"`
	SessionTimeoutMs int64      `json:"session_timeout_ms"`
	Batch            int        `json:"batch"`
	Output           string     `json:"output"`
	AbortEvery       int        `json:"abort_every"`
	HoldAfter        int        `json:"hold_after"`
}

// toRecord travels as [topic, partition, value].
type toRecord struct {
	topic, value string
	partition    int32
}

func (r *toRecord) UnmarshalJSON(data []byte) error {
	fields := []any{&r.topic, &r.partition, &r.value}
	return json.Unmarshal(data, &fields)
}

// foundRecord is [partition, offset, value].
type foundRecord [3]any

type transactor interface {
	begin() error
	send(records []toRecord) error
	end(commit bool) error
	close() error
}

type transactLibrary interface {
	open(r *transactRequest) (transactor, error)
	read(r *transactRequest) ([]foundRecord, error)
	// process returns whether the last transaction is held.
	process(r *transactRequest) (bool, error)
	commitWhenGone(r *transactRequest, with transactor) error
}

type transactHome struct {
	library   transactLibrary
	producers sync.Map
}

func (h *transactHome) handle(r *transactRequest) (answer, error) {
	var one transactor
	if found, is := h.producers.Load(r.Producer); is {
		one = found.(transactor)
	}
	switch r.Op {
	case "open":
		opened, err := h.library.open(r)
		h.producers.Store(r.Producer, opened)
		return answer{}, err
	case "begin":
		return answer{}, one.begin()
	case "send":
		return answer{}, one.send(r.Records)
	case "commit":
		return answer{}, one.end(true)
	case "abort":
		return answer{}, one.end(false)
	case "close":
		return answer{}, one.close()
	case "read":
		records, err := h.library.read(r)
		return answer{"records": records}, err
	case "process":
		isHeld, err := h.library.process(r)
		return answer{"is_held": isHeld}, err
	case "commit_when_gone":
		return answer{}, h.library.commitWhenGone(r, one)
	}
	return nil, fmt.Errorf("no such operation: %s", r.Op)
}

// nameOf is Kafka's name of an error where it has one.
func nameOf(err error) string {
	var franz *kerr.Error
	if errors.As(err, &franz) {
		return franz.Message
	}
	var number sarama.KError
	if errors.As(err, &number) {
		return nameOf(kerr.ErrorForCode(int16(number))) // it does not know all of them
	}
	var failed sarama.ProducerErrors
	if errors.As(err, &failed) {
		return nameOf(failed[0].Err)
	}
	return err.Error()
}

func runTransactors(library string) {
	home := &transactHome{library: map[string]transactLibrary{
		"franz-go": franzTransactors{}, "franz-go-v1": franzTransactors{isOld: true}, "sarama": saramaTransactors{},
	}[library]}
	requests := bufio.NewReader(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for {
		line, err := requests.ReadBytes('\n')
		if err != nil {
			return
		}
		var request transactRequest
		if err = json.Unmarshal(line, &request); err != nil {
			panic(fmt.Sprintf("%s: %v", line, err))
		}
		go func() {
			result, err := home.handle(&request)
			if err != nil {
				result = answer{"error": nameOf(err), "text": err.Error()}
			}
			result["id"] = request.ID
			writing.Lock()
			defer writing.Unlock()
			_ = answers.Encode(result)
		}()
	}
}
