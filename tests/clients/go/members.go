package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Members of consumer groups in one process; tests/clients/group_members.py says what goes in and what comes out.

type memberRequest struct {
	Op                  string  `json:"op"`
	Member              string  `json:"member"`
	Bootstrap           string  `json:"bootstrap"`
	Topic               string  `json:"topic"`
	Group               string  `json:"group"`
	Protocol            string  `json:"protocol"`
	Assignor            string  `json:"assignor"`
	InstanceID          *string `json:"instance_id"`
	SessionTimeoutMs    int64   `json:"session_timeout_ms"`
	HeartbeatIntervalMs int64   `json:"heartbeat_interval_ms"`
	MaxPollIntervalMs   int64   `json:"max_poll_interval_ms"`
}

func ms(count int64) time.Duration { return time.Duration(count) * time.Millisecond }

type member struct {
	memberRequest
	leaving, paused atomic.Bool
	mutex           sync.Mutex
	owned           map[int32]bool
}

var writing sync.Mutex

func (m *member) tell(what string, more map[string]any) {
	event := map[string]any{"member": m.Member, "at": time.Now().UnixMilli(), "what": what}
	for key, value := range more {
		event[key] = value
	}
	line, _ := json.Marshal(event)
	writing.Lock()
	defer writing.Unlock()
	_, _ = os.Stdout.Write(append(line, '\n'))
}

func (m *member) changeOwned(partitions []int32, is bool, generation int32) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	for _, partition := range partitions {
		if is {
			m.owned[partition] = true
		} else {
			delete(m.owned, partition)
		}
	}
	all := []int32{}
	for partition := range m.owned {
		all = append(all, partition)
	}
	slices.Sort(all)
	m.tell("owned", map[string]any{"partitions": all, "generation": generation})
}

func (m *member) read(partition int32, first, last int64, generation int32) {
	m.tell("records", map[string]any{"partition": partition, "first": first, "last": last, "generation": generation})
}

func (m *member) committed(partition int32, offset int64) {
	m.tell("committed", map[string]any{"partition": partition, "offset": offset})
}

// waitWhilePaused holds whoever calls, once however many partitions do.
func (m *member) waitWhilePaused() {
	if !m.paused.Load() {
		return
	}
	m.tell("paused", nil)
	for m.paused.Load() {
		time.Sleep(10 * time.Millisecond)
	}
	m.tell("resumed", nil)
}

func runMembers(library string) {
	live := map[string]func(*member) error{"franz-go": franzMember, "sarama": saramaMember}[library]
	members := map[string]*member{}
	requests := bufio.NewReader(os.Stdin)
	for {
		line, err := requests.ReadBytes('\n')
		if err != nil {
			return
		}
		var request memberRequest
		if err = json.Unmarshal(line, &request); err != nil {
			panic(fmt.Sprintf("%s: %v", line, err))
		}
		switch m := members[request.Member]; request.Op {
		case "join":
			m = &member{memberRequest: request, owned: map[int32]bool{}}
			members[request.Member] = m
			go func() {
				if err := live(m); err != nil {
					m.tell("failed", map[string]any{"error": err.Error()})
				} else {
					m.tell("left", nil)
				}
			}()
		case "leave":
			m.leaving.Store(true)
		case "pause":
			m.paused.Store(true)
		case "resume":
			m.paused.Store(false)
		}
	}
}
