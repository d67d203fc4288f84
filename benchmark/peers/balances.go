package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"
)

const (
	maxKeys     = 100 // of a BatchGetItem
	eagerCalls  = 4
	maxInFlight = 2048
	callTimeout = 2 * time.Second
	backoff     = 50 * time.Millisecond
)

// refusal is an error reply: code and description as headers, the body as payload.
type refusal struct {
	code, description string
	body              []byte
}

func newRefusal(code, description, message string) *refusal {
	body, _ := json.Marshal(map[string]string{"error": message})
	return &refusal{code, description, body}
}

var (
	badRequest    = newRefusal("403", "BAD_REQUEST", "client_id must be one NATS subject token of 1 to 128 characters")
	notFound      = newRefusal("404", "NOT_FOUND", "no such client")
	unavailable   = newRefusal("503", "UNAVAILABLE", "the database did not answer in time; try again")
	busy          = newRefusal("503", "UNAVAILABLE", "too many requests in flight; try again")
	internalError = newRefusal("500", "INTERNAL_ERROR", "internal error")
)

func (r *refusal) answer(request micro.Request) {
	if err := request.Error(r.code, r.description, r.body); err != nil {
		slog.Warn("reply lost", "error", err)
	}
}

// asked is a request that waits for its client's row.
type asked struct {
	id      string
	request micro.Request
	next    int // the next one of its batch for the same client; -1: none
}

// balances answers requests. Its workers are the calls in flight: each takes what waits until nothing does.
type balances struct {
	db       *dynamodb.Client
	table    string
	js       jetstream.JetStream
	inFlight atomic.Int64

	mu      sync.Mutex
	waiting []asked
	workers int
}

func (b *balances) handle(request micro.Request) {
	id, ok := clientID(request.Data())
	if !ok {
		badRequest.answer(request)
		return
	}
	if b.inFlight.Add(1) > maxInFlight {
		b.inFlight.Add(-1)
		busy.answer(request)
		return
	}
	b.mu.Lock()
	b.waiting = append(b.waiting, asked{id: id, request: request})
	starts := b.workers < eagerCalls
	if starts {
		b.workers++
	}
	b.mu.Unlock()
	if starts {
		go b.work()
	}
}

func (b *balances) work() {
	for {
		batch, first := b.take()
		if len(batch) == 0 {
			return
		}
		b.answer(batch, first)
		b.inFlight.Add(-int64(len(batch)))
	}
}

// take returns what waits, at most maxKeys clients, and where in it the first request for each client is. A worker that
// is given nothing has ended.
func (b *balances) take() ([]asked, map[string]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) == 0 {
		b.workers--
		return nil, nil
	}
	first := make(map[string]int, min(len(b.waiting), maxKeys))
	size := 0
	for ; size < len(b.waiting); size++ {
		request := &b.waiting[size]
		next, ok := first[request.id]
		if !ok {
			if len(first) == maxKeys {
				break
			}
			next = -1
		}
		request.next, first[request.id] = next, size
	}
	batch := b.waiting[:size:size]
	b.waiting = b.waiting[size:]
	return batch, first
}

// answer reads the clients of a batch and answers its requests, each once.
func (b *balances) answer(batch []asked, first map[string]int) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	keys := make([]map[string]types.AttributeValue, 0, len(first))
	for id := range first {
		keys = append(keys, map[string]types.AttributeValue{"id": &types.AttributeValueMemberS{Value: id}})
	}
	wanted := map[string]types.KeysAndAttributes{b.table: {Keys: keys}}
	rest := notFound
	for {
		found, err := b.db.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{RequestItems: wanted})
		if err != nil {
			slog.Error("look-up failed", "clients", len(first), "error", err)
			rest = refusalOf(err)
			break
		}
		for _, row := range found.Responses[b.table] {
			id, ok := row["id"].(*types.AttributeValueMemberS)
			if !ok {
				continue
			}
			if at, asked := first[id.Value]; asked {
				delete(first, id.Value)
				b.reply(batch, at, row["client_balance"])
			}
		}
		if wanted = found.UnprocessedKeys; len(wanted) == 0 {
			break
		}
		time.Sleep(rand.N(backoff))
	}
	for _, at := range first {
		for ; at >= 0; at = batch[at].next {
			rest.answer(batch[at].request)
		}
	}
}

// reply answers the requests for one client, and publishes an event for each.
func (b *balances) reply(batch []asked, at int, value types.AttributeValue) {
	number, ok := value.(*types.AttributeValueMemberN)
	var body []byte
	if ok = ok && isInteger(number.Value); ok {
		body = append(append(append(make([]byte, 0, 40), `{"balance":`...), number.Value...), '}')
	} else {
		slog.Error("the row has no integer client_balance", "client_id", batch[at].id)
	}
	for ; at >= 0; at = batch[at].next {
		request := batch[at].request
		if !ok {
			internalError.answer(request)
			continue
		}
		if err := request.Respond(body); err != nil {
			slog.Warn("reply lost", "error", err)
			continue
		}
		event := &nats.Msg{
			Subject: eventPrefix + batch[at].id,
			Data:    body,
			Header:  nats.Header{jetstream.MsgIDHeader: {nuid.Next()}},
		}
		if _, err := b.js.PublishMsgAsync(event); err != nil {
			slog.Error("event dropped", "error", err)
		}
	}
}

func refusalOf(err error) *refusal {
	var refused smithy.APIError
	throttled := retry.IsErrorThrottles(retry.DefaultThrottles).IsErrorThrottle(err).Bool()
	if errors.As(err, &refused) && refused.ErrorFault() == smithy.FaultClient && !throttled {
		return internalError
	}
	return unavailable
}

// clientID is the id that a request asks for. What clients usually send is read without a decoder.
func clientID(data []byte) (string, bool) {
	if rest, ok := bytes.CutPrefix(data, []byte(`{"client_id":"`)); ok {
		if id, ok := bytes.CutSuffix(rest, []byte(`"}`)); ok && isPlain(id) {
			return string(id), true
		}
	}
	var body struct {
		ClientID string `json:"client_id"`
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return "", false
	}
	bad := func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune(".*>\ufeff", r)
	}
	length := utf8.RuneCountInString(body.ClientID)
	return body.ClientID, length > 0 && length <= 128 && !strings.ContainsFunc(body.ClientID, bad)
}

func isPlain(id []byte) bool {
	for _, c := range id {
		if c <= ' ' || c > '~' || c == '.' || c == '*' || c == '>' || c == '"' || c == '\\' {
			return false
		}
	}
	return len(id) > 0 && len(id) <= 128
}

func isInteger(number string) bool {
	digits := strings.TrimPrefix(number, "-")
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return false
		}
	}
	return digits != ""
}
