package main

import (
	"fmt"
	"os"
	"sort"
	"strings"
	"time"
)

// Programs that administer Kafka, and what they ask through their library, in their order. Each line of the output is a
// step, a tab, and one thing that the answer says. tests/compare/test_admin_programs.py compares them.
func runAdminProgram(name string) {
	programs := map[string]func(*story, string){
		"redpanda-console": redpandaConsole, "terraform": terraform, "topicctl": topicctl,
	}
	programs[name](&story{}, os.Args[3])
}

type story struct{ step string }

func (s *story) begin(step string) { s.step = step }

func (s *story) say(format string, arguments ...any) {
	text := strings.Join(strings.Fields(fmt.Sprintf(format, arguments...)), " ")
	fmt.Printf("%s\t%s\n", s.step, text)
}

// failed tells of an error, and whether there was one.
func (s *story) failed(err error) bool {
	if err != nil {
		s.say("%s", err)
	}
	return err != nil
}

// outcome tells of an error, or that there was none.
func (s *story) outcome(what string, err error) {
	if err == nil {
		s.say("%s done", what)
	} else {
		s.say("%s %s", what, err)
	}
}

// settle waits after a change: Apache Kafka answers before it tells of it, and nothing says when it does.
func settle() { time.Sleep(500 * time.Millisecond) }

func text(value *string) string {
	if value == nil {
		return "null"
	}
	return *value
}

func sortedKeys[V any](entries map[string]V) []string {
	keys := make([]string, 0, len(entries))
	for key := range entries {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
