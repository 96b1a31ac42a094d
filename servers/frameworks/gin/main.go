// Gin, stopped as its documentation shows it: Server.Shutdown with a deadline.
//
// https://gin-gonic.com/en/docs/server-config/graceful-restart-or-stop/
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/gin-gonic/gin"
)

var instance = rand.Text()

func main() {
	// Restores the default action after the first signal, so that a second one ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.Use(gin.Recovery(), func(c *gin.Context) { c.Header("X-Instance-Id", instance) })
	router.GET("/", func(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"server": "gin"}) })
	router.GET("/health", health)
	router.GET("/health/live", health)
	router.GET("/health/ready", health)
	router.GET("/slow", slow)
	router.POST("/echo", echo)
	router.GET("/bytes", bytes)
	router.GET("/stream", stream)
	router.GET("/events", events)
	server := &http.Server{Handler: router}

	// ListenAndServe in two steps, because with port 0 the port is known only between them.
	listener, err := net.Listen("tcp", net.JoinHostPort(env("HOST", "127.0.0.1"), env("PORT", "8080")))
	if err != nil {
		log.Fatal(err)
	}
	announce(listener)
	go func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Fatalf("serve: %s\n", err)
		}
	}()

	<-ctx.Done()
	stop()

	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout())
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		log.Fatal("Server forced to shutdown: ", err)
	}
}

func announce(listener net.Listener) {
	_ = json.NewEncoder(os.Stdout).Encode(gin.H{
		"event": "listening", "port": listener.Addr().(*net.TCPAddr).Port, "pid": os.Getpid(), "instance": instance,
	})
}

func drainTimeout() time.Duration {
	value, err := strconv.ParseFloat(env("DRAIN_TIMEOUT", "30"), 64)
	if err != nil {
		log.Fatalf("DRAIN_TIMEOUT: %s", err)
	}
	return seconds(value)
}

func health(c *gin.Context) {
	c.JSON(http.StatusOK, gin.H{"status": "ok"})
}

func slow(c *gin.Context) {
	delay := number(c, "delay", 1)
	select {
	case <-time.After(seconds(delay)):
		c.JSON(http.StatusOK, gin.H{"slept": delay})
	case <-c.Request.Context().Done():
	}
}

func echo(c *gin.Context) {
	body, err := io.ReadAll(c.Request.Body)
	if err != nil {
		c.AbortWithStatus(http.StatusBadRequest)
		return
	}
	c.Data(http.StatusOK, c.ContentType(), body)
}

func bytes(c *gin.Context) {
	c.Data(http.StatusOK, "application/octet-stream", make([]byte, int(number(c, "size", 1024))))
}

func stream(c *gin.Context) {
	c.Header("Content-Type", "text/plain")
	for chunk := range int(number(c, "chunks", 10)) {
		if chunk > 0 {
			time.Sleep(seconds(number(c, "interval", 0.1)))
		}
		fmt.Fprintf(c.Writer, "chunk %d\n", chunk)
		c.Writer.Flush()
	}
}

func events(c *gin.Context) {
	c.Header("Content-Type", "text/event-stream")
	event := 0
	c.Stream(func(w io.Writer) bool {
		fmt.Fprintf(w, "data: %d\n\n", event)
		c.Writer.Flush()
		event++
		time.Sleep(time.Second)
		return true
	})
}

func number(c *gin.Context, name string, fallback float64) float64 {
	value, err := strconv.ParseFloat(c.Query(name), 64)
	if err != nil {
		return fallback
	}
	return value
}

func seconds(value float64) time.Duration {
	return time.Duration(value * float64(time.Second))
}

func env(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
