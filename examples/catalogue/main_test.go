package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/syncengine-go/syncengine/syncenginetest"
)

// TestCatalogue goes through what the service offers, as a shop would.
func TestCatalogue(t *testing.T) {
	ctx, end := context.WithCancel(context.Background())
	defer end()
	shop := httptest.NewServer(newCatalogue(ctx, syncenginetest.New(t)))
	defer shop.Close()
	defer end() // streams end first
	ask := func(method, path, body string, header ...string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, method, shop.URL+path, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		return http.DefaultClient.Do(req)
	}
	want := func(method, path, body string, status int, reply string) {
		t.Helper()
		res, err := ask(method, path, body)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != status || !strings.Contains(string(got), reply) {
			t.Errorf("%s %s: %d %s %v, want %d %s", method, path, res.StatusCode, got, err, status, reply)
		}
	}
	stream := func(header ...string) func() (id, event, data string) {
		t.Helper()
		res, err := ask("GET", "/changes", "", header...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		lines := bufio.NewScanner(res.Body)
		return func() (id, event, data string) {
			fields := map[string]string{}
			for lines.Scan() && lines.Text() != "" {
				name, value, _ := strings.Cut(lines.Text(), ": ")
				fields[name] = value
			}
			return fields["id"], fields["event"], fields["data"]
		}
	}
	told := stream()
	want("PUT", "/products/lamp", `{"name":"Lamp","cents":4900}`, 200, "Lamp")
	seen, event, data := told()
	if event != "put" || !strings.Contains(data, "Lamp") {
		t.Errorf("told of %s %s", event, data)
	}
	want("PUT", "/products/lamp", `{"name":`, 400, "")
	want("GET", "/products/none", "", 404, "")
	for n := range 3 {
		want("GET", "/products/lamp", "", 200, fmt.Sprintf(`"views":%d`, n+1))
	}
	want("POST", "/import", `{"sku":"chair","product":{"name":"Chair","cents":8900}}`+"\nnot JSON\n"+`{"sku":"","product":{"name":"Nothing"}}`, 200, `"stored":`)
	want("GET", "/products", "", 200, "Chair")
	want("DELETE", "/products/chair", "", 200, "")
	want("PUT", "/carts/me", `{"lamp":2}`, 200, "lamp")
	want("GET", "/carts/me", "", 200, `"lamp":2`)
	resumed := stream("Last-Event-ID", seen)
	for event != "delete" { // perhaps of the import first
		seen, event, data = resumed()
		if seen == "" || !strings.Contains(data, "chair") {
			t.Fatalf("who comes back is told of %s %s", event, data)
		}
	}
}
