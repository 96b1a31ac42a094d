// A server in order: SIGTERM shuts it down, and it ends.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	server := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT")}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	go server.ListenAndServe()
	<-stop.Done()
	server.Shutdown(context.Background())
}
