// request CLIENT_ID: ask for a client's balance over NATS.
//
// NATS_URL is the server, NATS_CREDS the path of the .creds file; the defaults are those of `make up`.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	tries   = 6
	timeout = 5 * time.Second
)

func main() {
	if len(os.Args) != 2 {
		fail("usage: request CLIENT_ID")
	}
	connection, err := nats.Connect(
		variable("NATS_URL", nats.DefaultURL),
		nats.UserCredentials(variable("NATS_CREDS", ".local/creds/client.creds")),
	)
	if err != nil {
		fail(err.Error())
	}
	defer connection.Close()
	body, err := json.Marshal(map[string]string{"client_id": os.Args[1]})
	if err != nil {
		fail(err.Error())
	}
	for try := 1; try <= tries; try++ {
		reply, err := connection.Request("customer.balance", body, timeout)
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) {
			// No task has room or none runs. Wait a random time, longer each time, so that requesters spread.
			time.Sleep(time.Duration(try) * time.Duration(50+rand.IntN(450)) * time.Millisecond)
			continue
		}
		if err != nil {
			fail(err.Error())
		}
		if code := reply.Header.Get("Nats-Service-Error-Code"); code != "" {
			fail(fmt.Sprintf("%s: %s", code, reply.Data))
		}
		fmt.Println(string(reply.Data))
		return
	}
	fail(fmt.Sprintf("no answer in %d tries", tries))
}

func variable(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func fail(problem string) {
	fmt.Fprintln(os.Stderr, problem)
	os.Exit(1)
}
