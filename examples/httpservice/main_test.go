package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is the service as its users run it.
type process struct {
	cmd  *exec.Cmd
	url  string
	done chan string // the log, once the process has closed it
}

func build(t *testing.T) (binary string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no SIGTERM")
	}
	binary = filepath.Join(t.TempDir(), "httpservice")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// launch starts the binary and waits until it listens.
func launch(t *testing.T, binary string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.CommandContext(t.Context(), binary, args...), done: make(chan string, 1)}
	p.cmd.Env = append(os.Environ(), "SYNCENGINE_ADDR=127.0.0.1:0")
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr := make(chan string, 1)
	go func() {
		var log strings.Builder
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			log.WriteString(lines.Text() + "\n")
			var entry struct{ Msg, Addr string }
			if json.Unmarshal(lines.Bytes(), &entry) == nil && entry.Msg == "listening" {
				addr <- entry.Addr
			}
		}
		p.done <- log.String()
	}()
	select {
	case a := <-addr:
		p.url = "http://" + a
	case log := <-p.done:
		t.Fatalf("the service ended: %v\n%s", p.cmd.Wait(), log)
	case <-time.After(30 * time.Second):
		_ = p.cmd.Process.Kill()
		t.Fatalf("the service does not listen\n%s", <-p.done)
	}
	return p
}

// terminate sends SIGTERM, wants exit status 0 and returns the log.
func (p *process) terminate(t *testing.T) (log string) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	log = <-p.done
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("exit: %v, want 0\n%s", err, log)
	}
	return log
}

func (p *process) do(t *testing.T, method, path, body string) (status int, got string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

const body = `{"kept": "byte  for byte", "n": 1.50}`

func TestTerminatedServiceKeepsItsItems(t *testing.T) {
	binary, dir := build(t), filepath.Join(t.TempDir(), "new")
	p := launch(t, binary, "-dir", dir)
	if status, got := p.do(t, "PUT", "/items/a%2Fb", body); status != http.StatusNoContent {
		t.Fatalf("PUT: %d %s", status, got)
	}
	log := p.terminate(t)
	if strings.Contains(log, "byte  for byte") {
		t.Errorf("content is logged:\n%s", log)
	}

	p = launch(t, binary, "-dir", dir)
	if status, got := p.do(t, "GET", "/items/a%2Fb", ""); status != http.StatusOK || got != body {
		t.Errorf("GET: %d %s, want %s", status, got, body)
	}
	p.terminate(t)
}

func TestKilledServiceKeepsItsItems(t *testing.T) {
	binary, dir := build(t), t.TempDir()
	p := launch(t, binary, "-dir", dir)
	if status, got := p.do(t, "PUT", "/items/a", body); status != http.StatusNoContent {
		t.Fatalf("PUT: %d %s", status, got)
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	_ = p.cmd.Wait()

	p = launch(t, binary, "-dir", dir)
	if status, got := p.do(t, "GET", "/items/a", ""); status != http.StatusOK || got != body {
		t.Errorf("GET: %d %s, want %s", status, got, body)
	}
	p.terminate(t)
}

// Ops that SQL could not take are a warning, not a failure: the next start has them.
func TestTerminatedDuringOutageExitsWithZero(t *testing.T) {
	binary, dir := build(t), t.TempDir()
	p := launch(t, binary, "-dir", dir, "-sql", awayURL)
	if status, got := p.do(t, "PUT", "/items/a", body); status != http.StatusNoContent {
		t.Fatalf("PUT: %d %s", status, got)
	}
	log := p.terminate(t)
	if !strings.Contains(log, "left in the WAL") || strings.Contains(log, "secret") {
		t.Errorf("log:\n%s", log)
	}
	p = launch(t, binary, "-dir", dir, "-sql", awayURL)
	if status, got := p.do(t, "GET", "/items/a", ""); status != http.StatusOK || got != body {
		t.Errorf("GET: %d %s, want %s", status, got, body)
	}
	p.terminate(t)
}

func TestBadCommandLine(t *testing.T) {
	t.Setenv("SYNCENGINE_DIR", "")
	for _, args := range [][]string{{}, {"-dir", t.TempDir(), "extra"}, {"-dir", t.TempDir(), "-sql", "nonsense"}, {"-no"}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
