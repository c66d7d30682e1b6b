package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestFaultsOfOtherPlatformsAreFound, in tests as well, and no others.
func TestFaultsOfOtherPlatformsAreFound(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":    "module x\n\ngo 1.26\n",
		"x.go":      "package x\n\nimport \"strings\"\n\nconst big = 1 << 40\n\nvar _ = strings.Repeat(\"x\", 3)\n\nfunc f() int { return big }\n",
		"x_test.go": "package x\n\nimport \"testing\"\n\nfunc TestX(t *testing.T) { t.Log(f() + 1<<50) }\n",
		"y_unix.go": "//go:build unix\n\npackage x\n\nfunc g() {}\n",
		"z.go":      "package x\n\nfunc init() { g() }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for platform, want := range map[string][]string{
		"linux/386":     {"x.go", "x_test.go"},
		"windows/amd64": {"z.go"},
	} {
		_, err := check(dir, platform, "")
		if err == nil {
			t.Errorf("%s: nothing was found", platform)
			continue
		}
		for _, file := range []string{"x.go", "x_test.go", "z.go"} {
			if found := strings.Contains(err.Error(), file); found != slices.Contains(want, file) {
				t.Errorf("%s: %v; want faults in %v only", platform, err, want)
			}
		}
	}
}
