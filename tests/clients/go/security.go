package main

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	franzscram "github.com/twmb/franz-go/pkg/sasl/scram"
	"github.com/xdg-go/scram"
)

// login is what one client shows; tests/clients/logins.py says what its fields are.
type login struct {
	Mechanism   string `json:"mechanism"`
	Name        string `json:"name"`
	Password    string `json:"password"`
	Token       string `json:"token"`
	Ca          string `json:"ca"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// tls is nil when the connection has none.
func (l *login) tls() (*tls.Config, error) {
	if l.Ca == "" {
		return nil, nil
	}
	authority, err := os.ReadFile(l.Ca)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s holds no certificate", l.Ca)
	}
	if l.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(l.Certificate, l.Key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func (l *login) readToken() (string, error) {
	token, err := os.ReadFile(l.Token)
	return strings.TrimSpace(string(token)), err
}

func (l *login) franzMechanism() sasl.Mechanism {
	switch l.Mechanism {
	case "PLAIN":
		return plain.Auth{User: l.Name, Pass: l.Password}.AsMechanism()
	case "SCRAM-SHA-256":
		return franzscram.Auth{User: l.Name, Pass: l.Password}.AsSha256Mechanism()
	case "SCRAM-SHA-512":
		return franzscram.Auth{User: l.Name, Pass: l.Password}.AsSha512Mechanism()
	case "OAUTHBEARER":
		return oauth.Oauth(func(context.Context) (oauth.Auth, error) {
			token, err := l.readToken()
			return oauth.Auth{Token: token}, err
		})
	}
	return nil
}

func (l *login) franzOptions() ([]kgo.Opt, error) {
	if l == nil {
		return nil, nil
	}
	config, err := l.tls()
	if err != nil {
		return nil, err
	}
	var options []kgo.Opt
	if config != nil {
		options = append(options, kgo.DialTLSConfig(config))
	}
	if mechanism := l.franzMechanism(); mechanism != nil {
		options = append(options, kgo.SASL(mechanism))
	}
	return options, nil
}

// franzClient connects at once where a login may be refused: by itself it would only try again.
func franzClient(l *login, options ...kgo.Opt) (*kgo.Client, error) {
	more, err := l.franzOptions()
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(options, more...)...)
	if err != nil || l == nil {
		return client, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := client.Ping(ctx); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// xdgClient is how sarama is given SCRAM: by a library of the user's choice.
type xdgClient struct {
	*scram.ClientConversation
	hash scram.HashGeneratorFcn
}

func (x *xdgClient) Begin(name, password, authorization string) error {
	client, err := x.hash.NewClient(name, password, authorization)
	if err == nil {
		x.ClientConversation = client.NewConversation()
	}
	return err
}

type saramaTokens struct{ login *login }

func (s saramaTokens) Token() (*sarama.AccessToken, error) {
	token, err := s.login.readToken()
	return &sarama.AccessToken{Token: token}, err
}

func (l *login) addTo(config *sarama.Config) error {
	if l == nil {
		return nil
	}
	settings, err := l.tls()
	if err != nil {
		return err
	}
	config.Net.TLS.Enable, config.Net.TLS.Config = settings != nil, settings
	config.Metadata.Retry.Max = 3 // it tries a login that was refused as often as one that was not answered
	if l.Mechanism == "" {
		return nil
	}
	hashes := map[string]scram.HashGeneratorFcn{"SCRAM-SHA-256": sha256.New, "SCRAM-SHA-512": sha512.New}
	config.Net.SASL.Enable = true
	config.Net.SASL.Mechanism = sarama.SASLMechanism(l.Mechanism)
	config.Net.SASL.User, config.Net.SASL.Password = l.Name, l.Password
	config.Net.SASL.TokenProvider = saramaTokens{l}
	config.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient {
		return &xdgClient{hash: hashes[l.Mechanism]}
	}
	return nil
}
