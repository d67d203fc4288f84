// The endpoint customer.balance in Go: the same design, as well as we can write it, for `make bench` to compare with.
//
// Look-ups that wait together share a BatchGetItem, at most four calls are in flight, an event follows each reply and is
// acknowledged asynchronously. It is told what the service is told: NATS_URL, NATS_CREDENTIALS (base64 of a .creds file),
// DDB_TABLE, and the variables of the AWS SDK.
package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
)

const (
	serviceName = "customer"
	subject     = "customer.balance"
	eventPrefix = subject + "."
	queueGroup  = "q"
	inboxPrefix = "_INBOX_service"

	maxEvents   = 100_000 // not acknowledged yet
	stopTimeout = 10 * time.Second
	drainPoll   = 5 * time.Millisecond
)

func run(stop <-chan os.Signal) error {
	configured, err := config.LoadDefaultConfig(context.Background())
	if err != nil {
		return err
	}
	options := []nats.Option{nats.Name("peer"), nats.MaxReconnects(-1), nats.CustomInboxPrefix(inboxPrefix)}
	if encoded := os.Getenv("NATS_CREDENTIALS"); encoded != "" {
		creds, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return fmt.Errorf("NATS_CREDENTIALS: %w", err)
		}
		options = append(options, nats.UserCredentialBytes(creds))
	}
	nc, err := nats.Connect(os.Getenv("NATS_URL"), options...)
	if err != nil {
		return err
	}
	defer nc.Close()
	lost := func(_ jetstream.JetStream, event *nats.Msg, err error) {
		slog.Error("event not stored", "subject", event.Subject, "error", err)
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxEvents), jetstream.WithPublishAsyncErrHandler(lost))
	if err != nil {
		return err
	}
	b := &balances{db: dynamodb.NewFromConfig(configured), table: os.Getenv("DDB_TABLE"), js: js}
	service, err := micro.AddService(nc, micro.Config{Name: serviceName, Version: "1.0.0", QueueGroup: queueGroup})
	if err != nil {
		return err
	}
	err = service.AddEndpoint("balance", micro.HandlerFunc(b.handle), micro.WithEndpointSubject(subject))
	if err != nil {
		return err
	}
	if err := nc.Flush(); err != nil { // its subscriptions are at the server
		return err
	}
	slog.Info("serving")
	<-stop
	return b.drain(nc, service)
}

// drain takes no more requests, and returns when those already delivered are answered and their events stored.
func (b *balances) drain(nc *nats.Conn, service micro.Service) error {
	deadline := time.Now().Add(stopTimeout)
	if err := service.Stop(); err != nil {
		return err
	}
	// The one subscription that stays is that for acknowledgements.
	for (nc.NumSubscriptions() > 1 || b.inFlight.Load() > 0) && time.Now().Before(deadline) {
		time.Sleep(drainPoll)
	}
	select {
	case <-b.js.PublishAsyncComplete():
	case <-time.After(time.Until(deadline)):
		slog.Error("events not acknowledged", "events", b.js.PublishAsyncPending())
	}
	return nc.FlushTimeout(time.Second)
}

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	if err := run(stop); err != nil {
		slog.Error("ended", "error", err)
		os.Exit(1)
	}
}
